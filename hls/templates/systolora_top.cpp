// The top function: its ports, the on-chip memories, and one program from start to status block.

#include "systolora_top.hpp"

#include "config.hpp"
#include "controller.hpp"

{% for argument in arguments %}
// {{ "%-18s" | format(argument.name) }} {{ argument.meaning }}
{% endfor %}
{{ signature }}
{
{% for argument in arguments if argument.kind == "pointer" %}
#pragma HLS INTERFACE mode=m_axi port={{ argument.name }} bundle={{ argument.name }} offset=slave depth={{ testbench_words }} \
    max_read_burst_length={{ burst_words }} num_read_outstanding={{ requests_in_flight }}{{ " max_write_burst_length=%d num_write_outstanding=%d" | format(burst_words, requests_in_flight) if argument.name in written }}
{% endfor %}
{% for argument in arguments %}
#pragma HLS INTERFACE mode=s_axilite port={{ argument.name }} bundle=control offset=0x{{ "%02x" | format(offsets[argument.name]) }}
{% endfor %}
#pragma HLS INTERFACE mode=s_axilite port=return bundle=control
    SYSTOLORA_MEMORY InputSegment input_ping[kInputDepth][kInputSegments];
    SYSTOLORA_MEMORY InputSegment input_pong[kInputDepth][kInputSegments];
    SYSTOLORA_MEMORY WeightSegment weight_ping[kWeightDepth][kWeightSegments];
    SYSTOLORA_MEMORY WeightSegment weight_pong[kWeightDepth][kWeightSegments];
    SYSTOLORA_MEMORY OutputSegment output_ping[kOutputDepth][kOutputSegments];
    SYSTOLORA_MEMORY OutputSegment output_pong[kOutputDepth][kOutputSegments];
{% for name in ("input", "weight", "output") %}
{% for half in ("ping", "pong") %}
#pragma HLS AGGREGATE variable={{ name }}_{{ half }} compact=bit
#pragma HLS ARRAY_PARTITION variable={{ name }}_{{ half }} type=complete dim=2
#pragma HLS BIND_STORAGE variable={{ name }}_{{ half }} type=ram_s2p impl={{ storage[name] }} latency={{ read_latency[name] }}
{% endfor %}
{% endfor %}
    Surroundings around;
    around.window.address = window_address;
    around.window.size = window_size;
    around.program.address = program_address;
    around.program.size = uint64_t(instruction_count) * kInstructionBytes;
    around.status.address = status_address;
    around.status.size = kStatusBytes;

    Status status;
    status.error = check_program(around, instruction_count);
    status.error_index = 0;
    status.executed = 0;
    status.sequence = sequence;
    status.counters = no_counts();
    if (status.error == ErrorCode::ok) {
        run_program(around, instruction_count, memory_program, memory_input, memory_weight, memory_output, input_ping,
                    input_pong, weight_ping, weight_pong, output_ping, output_pong, status, error_index);
    }
    if (status_writable(around)) {
        write_status(status, (status_address - window_address) / kBusBytes, memory_program);
    }
    error = uint32_t(status.error);
    error_index = status.error_index;
    fingerprint = kFingerprint;
}
