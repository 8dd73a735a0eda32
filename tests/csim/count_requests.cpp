// The top function behind a C name that also tells, for each port, the most reads and writes that were open at once.

#include "systolora_top.cpp"

#include "csim_entry.cpp"

extern "C" __attribute__((visibility("default"))) void count_requests(void *window, const CsimCall *call,
                                                                      CsimResult *result, unsigned most[4][2])
{
    BusWord *memory = static_cast<BusWord *>(window);
    Port ports[4] = {memory, memory, memory, memory};
    systolora_top(ports[0], ports[1], ports[2], ports[3], call->window_address, call->window_size, call->program_address,
                  static_cast<uint32_t>(call->instruction_count), call->status_address,
                  static_cast<uint32_t>(call->sequence), result->error, result->error_index, result->fingerprint);
    for (int port = 0; port < 4; ++port) {
        most[port][0] = ports[port].most_reads();
        most[port][1] = ports[port].most_writes();
    }
}
