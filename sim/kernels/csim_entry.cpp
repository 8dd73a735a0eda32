// The top function behind a C name, for ctypes. All four memory ports see the same device memory, as on a board.

#include "systolora_top.hpp"

struct CsimCall {
    uint64_t window_address;
    uint64_t window_size;
    uint64_t program_address;
    uint64_t instruction_count;
    uint64_t status_address;
    uint64_t sequence;
};

struct CsimResult {
    uint32_t error;
    uint32_t error_index;
    uint32_t fingerprint;
};

extern "C" __attribute__((visibility("default"))) void systolora_csim(void *window, const CsimCall *call,
                                                                      CsimResult *result)
{
    BusWord *memory = static_cast<BusWord *>(window);
    systolora_top(memory, memory, memory, memory, call->window_address, call->window_size, call->program_address,
                  static_cast<uint32_t>(call->instruction_count), call->status_address,
                  static_cast<uint32_t>(call->sequence), result->error, result->error_index, result->fingerprint);
}
