// Carry-less product of two polynomials over GF(2), by Karatsuba down to Base bits and schoolbook below.
// The one register stage stands where the products are Cut bits wide.
module clmul #(
    parameter int Width = 128,
    parameter int Base  = 8,
    parameter int Cut   = 32
) (
    input  logic                 clk,
    input  logic                 enable,
    input  logic [    Width-1:0] a,
    input  logic [    Width-1:0] b,
    output logic [2*Width-2:0] product
);
  logic [2*Width-2:0] now;

  if (Width <= Base) begin : g_schoolbook
    always_comb begin
      now = '0;
      for (int i = 0; i < Width; i++) begin
        if (b[i]) now ^= {{Width - 1{1'b0}}, a} << i;
      end
    end
  end else begin : g_karatsuba
    localparam int Half = Width / 2;
    logic [2*Half-2:0] low, high, middle;
    clmul #(.Width(Half), .Base(Base), .Cut(Cut)) mul_low (
        .clk, .enable, .a(a[Half-1:0]), .b(b[Half-1:0]), .product(low));
    clmul #(.Width(Half), .Base(Base), .Cut(Cut)) mul_high (
        .clk, .enable, .a(a[Width-1:Half]), .b(b[Width-1:Half]), .product(high));
    clmul #(.Width(Half), .Base(Base), .Cut(Cut)) mul_middle (
        .clk, .enable, .a(a[Half-1:0] ^ a[Width-1:Half]), .b(b[Half-1:0] ^ b[Width-1:Half]), .product(middle));
    assign now = {high, 1'b0, low} ^ ({{Width{1'b0}}, low ^ middle ^ high} << Half);
  end

  if (Width == Cut) begin : g_register
    always_ff @(posedge clk) if (enable) product <= now;
  end else begin : g_wire
    assign product = now;
    logic unused;
    assign unused = &{1'b0, clk, enable};
  end
endmodule
