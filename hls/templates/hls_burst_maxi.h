// hls::burst_maxi for C-simulation by any C++14 compiler: a port of device memory whose bursts are asked for by hand.
//
// Vitis HLS brings a header of this name, which it alone can synthesize (UG1399, "Using Manual Burst"); this one has the
// same calls and is stricter, because a fault of these kinds would hang the hardware: a word that was never asked for, a
// request of no words, one that is left over, more requests or words ahead than the port can hold.

#ifndef SYSTOLORA_HLS_BURST_MAXI_H
#define SYSTOLORA_HLS_BURST_MAXI_H

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>

namespace hls
{

// What one direction of a port is asked for beyond what has passed.
class burst_queue
{
  public:
    static constexpr unsigned kRequests = {{ requests_in_flight }};
    static constexpr unsigned kWords = kRequests * {{ burst_words }};

    ~burst_queue()
    {
        require(requests_ == 0 && passed_ == 0, "a request is left over");
    }

    void ask(size_t first, unsigned words)
    {
        require(words != 0, "a request of no words");
        require(requests_ + passed_ < kRequests, "more requests than the port holds");
        require(waiting_ == 0 || waiting_ + words <= kWords, "more words ahead than the port holds");
        const unsigned last = (head_ + requests_) % kRequests;
        first_[last] = first;
        words_[last] = words;
        waiting_ += words;
        ++requests_;
        most_ = requests_ + passed_ > most_ ? requests_ + passed_ : most_;
    }

    // The place of the next word.
    size_t next(bool answered)
    {
        require(requests_ != 0, "a word that was not asked for");
        const size_t place = first_[head_]++;
        --waiting_;
        if (--words_[head_] == 0) {
            head_ = (head_ + 1) % kRequests;
            --requests_;
            passed_ += answered ? 1 : 0;
        }
        return place;
    }

    void answer()
    {
        require(passed_ != 0, "an answer to a request whose words have not passed");
        --passed_;
    }

    // Most requests that were open at once.
    unsigned most() const
    {
        return most_;
    }

  private:
    static void require(bool good, const char *fault)
    {
        if (!good) {
            std::fprintf(stderr, "hls::burst_maxi: %s\n", fault);
            std::abort();
        }
    }

    size_t first_[kRequests] = {};
    unsigned words_[kRequests] = {};
    unsigned head_ = 0;
    unsigned requests_ = 0;  // with words to come
    unsigned passed_ = 0;    // without, whose answer was not taken
    unsigned waiting_ = 0;   // words to come
    unsigned most_ = 0;
};

// A port, made of the memory that it sees. Copies are the same port, and may not outlive it.
template <typename T>
class burst_maxi
{
  public:
    burst_maxi(T *memory) : memory_(memory), own_(new Queues), queues_(own_.get())
    {
        static_assert((sizeof(T) & (sizeof(T) - 1)) == 0, "a word of a port is a power of two of bytes");
    }

    burst_maxi(const burst_maxi &port) : memory_(port.memory_), queues_(port.queues_)
    {
    }

    burst_maxi(burst_maxi &&port) = default;
    burst_maxi &operator=(const burst_maxi &port) = delete;

    void read_request(size_t first, unsigned words)
    {
        queues_->reads.ask(first, words);
    }

    T read()
    {
        return memory_[queues_->reads.next(false)];
    }

    void write_request(size_t first, unsigned words)
    {
        queues_->writes.ask(first, words);
    }

    void write(const T &word)
    {
        memory_[queues_->writes.next(true)] = word;
    }

    // Taken once for each request, when all its words have been written.
    void write_response()
    {
        queues_->writes.answer();
    }

    // For tests, not of Vitis HLS: most requests that were open at once.
    unsigned most_reads() const
    {
        return queues_->reads.most();
    }

    unsigned most_writes() const
    {
        return queues_->writes.most();
    }

  private:
    struct Queues {
        burst_queue reads;
        burst_queue writes;
    };

    T *memory_;
    std::unique_ptr<Queues> own_;  // of the port itself, not of its copies, so that passing one on costs nothing
    Queues *queues_;
};

}  // namespace hls

#endif
