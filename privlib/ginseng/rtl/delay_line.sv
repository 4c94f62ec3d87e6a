// Depth registers in a row, without reset: a shift-register LUT a bit on a 7-series part.
(* keep_hierarchy *)
module delay_line #(
    parameter int Width = 128,
    parameter int Depth = 11
) (
    input  logic             clk,
    input  logic             enable,
    input  logic [Width-1:0] d,
    output logic [Width-1:0] q
);
  logic [Width-1:0] stage[Depth];

  always_ff @(posedge clk) begin
    if (enable) begin
      stage[0] <= d;
      for (int i = 1; i < Depth; i++) stage[i] <= stage[i-1];
    end
  end
  assign q = stage[Depth-1];
endmodule
