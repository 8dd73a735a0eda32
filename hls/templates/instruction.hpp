// The instruction set: where each field lies in the sixteen 64-bit words, as hls/isa.py declares it.

#ifndef SYSTOLORA_INSTRUCTION_HPP
#define SYSTOLORA_INSTRUCTION_HPP

#include <cstdint>

#include "config.hpp"
#include "float32.hpp"

{% for enum in enums %}
enum class {{ enum.name }} : uint8_t {
{% for item in enum.members %}
    {{ item.name }} = {{ item.value }},
{% endfor %}
};

{% endfor %}
struct InstructionWords {
    uint64_t word[kInstructionWords];
};

// `bits` bits of `word`, from bit `lsb` on.
inline uint64_t field_bits(uint64_t word, int lsb, int bits)
{
#pragma HLS INLINE
    return (word >> lsb) & (~uint64_t(0) >> (64 - bits));
}

inline uint32_t opcode_bits(const InstructionWords &code)
{
#pragma HLS INLINE
    return uint32_t(field_bits(code.word[0], 0, 8));
}
{% for layout in layouts %}

{% if layout.fields %}
struct {{ layout.struct }} {
{% for field in layout.fields %}
    {{ field.type }} {{ field.name }};
{% endfor %}
};

{% endif %}
// Whether the words are a {{ layout.opcode }} instruction: no reserved bit is set, and each enumeration has a meaning.
inline bool valid_{{ layout.name }}(const InstructionWords &code)
{
#pragma HLS INLINE off
    uint64_t reserved = 0;
{% for word, mask in layout.reserved %}
    reserved |= code.word[{{ word }}] & 0x{{ "%016x" | format(mask) }}u;
{% endfor %}
    bool meaning = true;
{% for field in layout.enumerations %}
    meaning = meaning && field_bits(code.word[{{ field.word }}], {{ field.lsb }}, {{ field.bits }}) <= {{ field.largest }};
{% endfor %}
    return reserved == 0 && meaning;
}
{% if layout.fields %}

inline {{ layout.struct }} decode_{{ layout.name }}(const InstructionWords &code)
{
#pragma HLS INLINE off
    {{ layout.struct }} op;
{% for field in layout.fields %}
    op.{{ field.name }} = {{ field.extraction }};
{% endfor %}
    return op;
}
{% endif %}
{% endfor %}

#endif
