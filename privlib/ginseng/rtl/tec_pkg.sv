// Names shared by the Tensor Encryption Core's modules.
// A block is logic [127:0] with byte 0 (the first on the bus) in bits 127:120, as FIPS 197 and SP 800-38D write it.
package tec_pkg;
  typedef logic [127:0] block_t;

  // What one input beat carries. A message is: associated data, data, then exactly one tag beat.
  typedef enum logic [1:0] {
    KindAad  = 2'd0,
    KindData = 2'd1,
    KindTag  = 2'd2,
    KindNone = 2'd3
  } kind_t;

  // GHASH counts the coefficient of x^0 from the leftmost bit; the multiplier from bit 0.
  function automatic block_t reflect(input block_t value);
    for (int i = 0; i < 128; i++) reflect[i] = value[127-i];
  endfunction

  // Remainder of a polynomial of degree 254 modulo x^128 + x^7 + x^2 + x + 1 (SP 800-38D, section 6.3).
  function automatic block_t reduce(input logic [254:0] value);
    logic [133:0] once;
    once = {6'b0, value[127:0]} ^ {7'b0, value[254:128]} ^ {6'b0, value[254:128], 1'b0}
         ^ {5'b0, value[254:128], 2'b0} ^ {value[254:128], 7'b0};
    reduce = once[127:0] ^ {122'b0, once[133:128]} ^ {121'b0, once[133:128], 1'b0}
           ^ {120'b0, once[133:128], 2'b0} ^ {115'b0, once[133:128], 7'b0};
  endfunction

  // Square in GF(2^128), on and to a reflected block: linear, so a few exclusive-ors a bit.
  function automatic block_t square(input block_t value);
    logic [254:0] spread;
    spread = '0;
    for (int i = 0; i < 128; i++) spread[2*i] = value[i];
    square = reduce(spread);
  endfunction
endpackage
