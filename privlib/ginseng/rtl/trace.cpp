// Plays a file of input records into the core, one a cycle, and writes one output record a cycle.
// Records are little-endian 32-bit words; the port lists are generated beside this file (ports.h) from the Python model.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "Vtec.h"
#include "ports.h"
#include "verilated.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  std::FILE* in = std::fopen(argv[1], "rb");
  std::FILE* out = std::fopen(argv[2], "wb");
  if (!in || !out) return 2;
  VerilatedContext context;
  auto tec = std::make_unique<Vtec>(&context);
  uint32_t input[INPUT_WORDS];
  uint32_t output[OUTPUT_WORDS];
  while (std::fread(input, sizeof input, 1, in) == 1) {
    tec->clk = 0;
    drive(*tec, input);
    tec->eval();
    sample(*tec, output);
    if (std::fwrite(output, sizeof output, 1, out) != 1) return 2;
    tec->clk = 1;
    tec->eval();
  }
  return std::fclose(out) == 0 ? 0 : 2;
}
