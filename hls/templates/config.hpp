// All values that this configuration fixes, and the rules that they must keep.

#ifndef SYSTOLORA_CONFIG_HPP
#define SYSTOLORA_CONFIG_HPP

#include <cstdint>

// Identity. The driver refuses hardware whose fingerprint is not the one that it was made for.
constexpr uint32_t kFingerprint = 0x{{ config.fingerprint_text }};
constexpr uint32_t kStatusMagic = 0x{{ "%08x" | format(status_magic) }};

// The array.
constexpr int kRows = {{ config.rows }};
constexpr int kCols = {{ config.cols }};
constexpr bool kPackedDsp = {{ "true" if config.packed_dsp else "false" }};  // two INT8 products in one DSP48E2
constexpr int kChain = {{ config.chain }};  // rows whose products are summed inside their DSPs
constexpr int kGroups = (kRows + kChain - 1) / kChain;
{% if config.output_stationary %}

// Output-stationary: kBandRows rows of the array work on as many rows of C.
constexpr int kBandRows = {{ config.band_rows }};
constexpr int kBandGroups = kBandRows / kChain;
constexpr int kBands = kRows / kBandRows;
constexpr int kStationaryRows = kBands * kBandRows;
{% endif %}

// Device memory is read and written in words of kBusBytes.
constexpr int kBusBytes = {{ config.bus_bytes }};
constexpr int kBusFloats = kBusBytes / 4;

// Words in one half, ping or pong, of each on-chip memory.
constexpr int kInputDepth = {{ config.input_depth }};   // words of kRows int8 lanes
constexpr int kWeightDepth = {{ config.weight_depth }};  // words of kCols int8 lanes
constexpr int kOutputDepth = {{ config.output_depth }};  // words of kCols int32 lanes

// A word is written in segments: as many lanes as one bus word can fill, wherever it begins.
constexpr int kInputLanes = {{ config.input_segment }};  // gcd(kBusBytes, kRows)
constexpr int kInputSegments = kRows / kInputLanes;
{% if config.output_stationary %}
constexpr int kBandSegments = kBandRows / kInputLanes;
{% endif %}
constexpr int kInputPieces = kBusBytes / kInputLanes;  // segments in a bus word
constexpr int kWeightLanes = {{ config.weight_segment }};  // gcd(kBusBytes, kCols)
constexpr int kWeightSegments = kCols / kWeightLanes;
constexpr int kWeightPieces = kBusBytes / kWeightLanes;
constexpr int kOutputLanes = {{ config.output_segment }};  // the least that QUANTIZE or the epilogue takes at once
constexpr int kOutputSegments = kCols / kOutputLanes;

// Columns that QUANTIZE and the epilogue take in a clock: of bfloat16, and of what is 32 bits wide.
constexpr int kQuantizeLanes = {{ config.quantize_width }};
constexpr int kQuantizeFloats = kQuantizeLanes < kBusFloats ? kQuantizeLanes : kBusFloats;
constexpr int kEpilogueLanes = {{ config.epilogue_width }};
constexpr int kEpilogueFloats = kEpilogueLanes < kBusFloats ? kEpilogueLanes : kBusFloats;

// A port holds this many requests, each of at most this many words: as its INTERFACE pragma says.
constexpr int kRequestsInFlight = {{ requests_in_flight }};
constexpr int kBurstWords = {{ burst_words }};

// QUANTIZE goes through a matrix in pieces, and keeps rows of up to kRowWords bus words in the input memory.
constexpr int kPieceWords = {{ piece_words }};  // bus words that are read in one round
constexpr int kPieceRows = {{ piece_rows }};
constexpr int kResultWords = kPieceWords / 2;  // bus words of integers that come of them
constexpr int kRowSlots = kRows / kBusBytes;   // bus words in an input memory word; none: each row is read twice
constexpr int kRowWords = kInputDepth * kRowSlots;

// Line buffers.
constexpr int kTurnWords = {{ turn_words }};  // bus words of a row that a transposing load turns at once
constexpr int kGroupColumns = {{ group_columns }};  // columns of C that the store unit takes at once
constexpr int kGroupWords = kGroupColumns / kBusFloats;

// The instruction set.
constexpr int kInstructionWords = {{ instruction_words }};  // of 64 bits
constexpr int kInstructionBytes = 8 * kInstructionWords;
constexpr int kInstructionBusWords = kInstructionBytes / kBusBytes;
constexpr int kStatusBytes = 128;
constexpr uint32_t kMaxInstructions = {{ config.max_instructions }};
constexpr uint32_t kMaxDimension = {{ max_dimension }};
constexpr uint32_t kMaxK = {{ max_k }};

// Clocks between two visits of the same output word: the latency of its read, addition and write.
constexpr uint32_t kMinTileClocks = {{ min_tile_clocks }};

// Bytes that each m_axi port sees in C/RTL co-simulation and in the testbench.
constexpr int kTestbenchBytes = {{ testbench_bytes }};
constexpr int kTestbenchWords = kTestbenchBytes / kBusBytes;

constexpr bool divides(int part, int whole)
{
    return whole % part == 0;
}

static_assert(kRows >= 4 && kRows <= 256 && kCols >= 4 && kCols <= 256, "the array has 4 to 256 rows and columns");
static_assert(kBusBytes == 4 || kBusBytes == 8 || kBusBytes == 16 || kBusBytes == 32 || kBusBytes == 64,
              "a bus word is 32 to 512 bits wide");
static_assert(divides(kBusBytes, kInstructionBytes) && divides(kBusBytes, kStatusBytes),
              "instructions and the status block are whole bus words");
static_assert(divides(kInputLanes, kRows) && divides(kInputLanes, kBusBytes), "segments fill input words");
static_assert(divides(kWeightLanes, kCols) && divides(kWeightLanes, kBusBytes), "segments fill weight words");
static_assert(divides(kOutputLanes, kCols) && divides(kOutputLanes, kBusFloats), "segments fill output words");
static_assert(divides(kQuantizeLanes, kCols) && divides(kQuantizeLanes, 2 * kBusFloats) &&
                  divides(kEpilogueLanes, kCols) && divides(kEpilogueLanes, 2 * kBusFloats),
              "lanes are a part of an output word, and of a bus word of bfloat16");
static_assert(divides(kOutputLanes, kQuantizeFloats) && divides(kOutputLanes, kEpilogueFloats),
              "what is taken in a clock is whole segments");
static_assert(kPieceWords >= 4 && divides(4, kPieceWords) && (kRowWords == 0 || kPieceWords <= kRowWords),
              "a piece gives whole words of integers, and a row that is kept holds one");
static_assert(divides(kCols, kGroupColumns) && divides(kBusBytes, kGroupColumns),
              "a group of columns begins at a word of the output memory and at a bus word, whatever the type of C");
static_assert(kInputDepth >= 16 && kWeightDepth >= 16 && kOutputDepth >= 16, "a half holds at least 16 words");
static_assert(kInputDepth <= 65536 && kWeightDepth <= 65536 && kOutputDepth <= 65536,
              "a half holds at most 65536 words: then the clocks of a tile fit 32 bits");
static_assert(kInputDepth * kRows >= kBusBytes * kBusBytes && kWeightDepth * kCols >= kBusBytes * kBusBytes &&
                  kOutputDepth * kCols >= kBusBytes * kBusBytes,
              "a tile of kBusBytes x kBusBytes fits each memory, so every GEMM can be tiled");
static_assert(int64_t(kMaxK) * 128 * 128 < (int64_t(1) << 31), "no sum of kMaxK products overflows 32 bits");
static_assert(kMaxInstructions >= 1 && kMaxInstructions <= (1u << 24), "a program has 1 to 2^24 instructions");
static_assert(kRequestsInFlight >= 2 && kBurstWords >= kTurnWords && kBurstWords < 256,
              "requests run ahead; a run of a turned row is one request; the words of a request fit 8 bits");
static_assert(divides(kBusBytes, kTestbenchBytes), "the ports see whole bus words");

#endif
