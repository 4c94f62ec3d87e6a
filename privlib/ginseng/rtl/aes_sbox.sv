// The AES S-box (FIPS 197, section 5.1.1) as a 256 x 8 table: 32 LUT6 with their F7/F8 multiplexers on a 7-series part.
// A memory without a write port: synthesis makes a table of it, the simulator an array.
(* keep_hierarchy *)
module aes_sbox (
    input  logic [7:0] a,
    output logic [7:0] y
);
  /* verilator no_inline_module */  // compiled once, not 164 times
  logic [7:0] table_rom[256];

  initial begin
    table_rom[0] = 8'h63; table_rom[1] = 8'h7c; table_rom[2] = 8'h77; table_rom[3] = 8'h7b;
    table_rom[4] = 8'hf2; table_rom[5] = 8'h6b; table_rom[6] = 8'h6f; table_rom[7] = 8'hc5;
    table_rom[8] = 8'h30; table_rom[9] = 8'h01; table_rom[10] = 8'h67; table_rom[11] = 8'h2b;
    table_rom[12] = 8'hfe; table_rom[13] = 8'hd7; table_rom[14] = 8'hab; table_rom[15] = 8'h76;
    table_rom[16] = 8'hca; table_rom[17] = 8'h82; table_rom[18] = 8'hc9; table_rom[19] = 8'h7d;
    table_rom[20] = 8'hfa; table_rom[21] = 8'h59; table_rom[22] = 8'h47; table_rom[23] = 8'hf0;
    table_rom[24] = 8'had; table_rom[25] = 8'hd4; table_rom[26] = 8'ha2; table_rom[27] = 8'haf;
    table_rom[28] = 8'h9c; table_rom[29] = 8'ha4; table_rom[30] = 8'h72; table_rom[31] = 8'hc0;
    table_rom[32] = 8'hb7; table_rom[33] = 8'hfd; table_rom[34] = 8'h93; table_rom[35] = 8'h26;
    table_rom[36] = 8'h36; table_rom[37] = 8'h3f; table_rom[38] = 8'hf7; table_rom[39] = 8'hcc;
    table_rom[40] = 8'h34; table_rom[41] = 8'ha5; table_rom[42] = 8'he5; table_rom[43] = 8'hf1;
    table_rom[44] = 8'h71; table_rom[45] = 8'hd8; table_rom[46] = 8'h31; table_rom[47] = 8'h15;
    table_rom[48] = 8'h04; table_rom[49] = 8'hc7; table_rom[50] = 8'h23; table_rom[51] = 8'hc3;
    table_rom[52] = 8'h18; table_rom[53] = 8'h96; table_rom[54] = 8'h05; table_rom[55] = 8'h9a;
    table_rom[56] = 8'h07; table_rom[57] = 8'h12; table_rom[58] = 8'h80; table_rom[59] = 8'he2;
    table_rom[60] = 8'heb; table_rom[61] = 8'h27; table_rom[62] = 8'hb2; table_rom[63] = 8'h75;
    table_rom[64] = 8'h09; table_rom[65] = 8'h83; table_rom[66] = 8'h2c; table_rom[67] = 8'h1a;
    table_rom[68] = 8'h1b; table_rom[69] = 8'h6e; table_rom[70] = 8'h5a; table_rom[71] = 8'ha0;
    table_rom[72] = 8'h52; table_rom[73] = 8'h3b; table_rom[74] = 8'hd6; table_rom[75] = 8'hb3;
    table_rom[76] = 8'h29; table_rom[77] = 8'he3; table_rom[78] = 8'h2f; table_rom[79] = 8'h84;
    table_rom[80] = 8'h53; table_rom[81] = 8'hd1; table_rom[82] = 8'h00; table_rom[83] = 8'hed;
    table_rom[84] = 8'h20; table_rom[85] = 8'hfc; table_rom[86] = 8'hb1; table_rom[87] = 8'h5b;
    table_rom[88] = 8'h6a; table_rom[89] = 8'hcb; table_rom[90] = 8'hbe; table_rom[91] = 8'h39;
    table_rom[92] = 8'h4a; table_rom[93] = 8'h4c; table_rom[94] = 8'h58; table_rom[95] = 8'hcf;
    table_rom[96] = 8'hd0; table_rom[97] = 8'hef; table_rom[98] = 8'haa; table_rom[99] = 8'hfb;
    table_rom[100] = 8'h43; table_rom[101] = 8'h4d; table_rom[102] = 8'h33; table_rom[103] = 8'h85;
    table_rom[104] = 8'h45; table_rom[105] = 8'hf9; table_rom[106] = 8'h02; table_rom[107] = 8'h7f;
    table_rom[108] = 8'h50; table_rom[109] = 8'h3c; table_rom[110] = 8'h9f; table_rom[111] = 8'ha8;
    table_rom[112] = 8'h51; table_rom[113] = 8'ha3; table_rom[114] = 8'h40; table_rom[115] = 8'h8f;
    table_rom[116] = 8'h92; table_rom[117] = 8'h9d; table_rom[118] = 8'h38; table_rom[119] = 8'hf5;
    table_rom[120] = 8'hbc; table_rom[121] = 8'hb6; table_rom[122] = 8'hda; table_rom[123] = 8'h21;
    table_rom[124] = 8'h10; table_rom[125] = 8'hff; table_rom[126] = 8'hf3; table_rom[127] = 8'hd2;
    table_rom[128] = 8'hcd; table_rom[129] = 8'h0c; table_rom[130] = 8'h13; table_rom[131] = 8'hec;
    table_rom[132] = 8'h5f; table_rom[133] = 8'h97; table_rom[134] = 8'h44; table_rom[135] = 8'h17;
    table_rom[136] = 8'hc4; table_rom[137] = 8'ha7; table_rom[138] = 8'h7e; table_rom[139] = 8'h3d;
    table_rom[140] = 8'h64; table_rom[141] = 8'h5d; table_rom[142] = 8'h19; table_rom[143] = 8'h73;
    table_rom[144] = 8'h60; table_rom[145] = 8'h81; table_rom[146] = 8'h4f; table_rom[147] = 8'hdc;
    table_rom[148] = 8'h22; table_rom[149] = 8'h2a; table_rom[150] = 8'h90; table_rom[151] = 8'h88;
    table_rom[152] = 8'h46; table_rom[153] = 8'hee; table_rom[154] = 8'hb8; table_rom[155] = 8'h14;
    table_rom[156] = 8'hde; table_rom[157] = 8'h5e; table_rom[158] = 8'h0b; table_rom[159] = 8'hdb;
    table_rom[160] = 8'he0; table_rom[161] = 8'h32; table_rom[162] = 8'h3a; table_rom[163] = 8'h0a;
    table_rom[164] = 8'h49; table_rom[165] = 8'h06; table_rom[166] = 8'h24; table_rom[167] = 8'h5c;
    table_rom[168] = 8'hc2; table_rom[169] = 8'hd3; table_rom[170] = 8'hac; table_rom[171] = 8'h62;
    table_rom[172] = 8'h91; table_rom[173] = 8'h95; table_rom[174] = 8'he4; table_rom[175] = 8'h79;
    table_rom[176] = 8'he7; table_rom[177] = 8'hc8; table_rom[178] = 8'h37; table_rom[179] = 8'h6d;
    table_rom[180] = 8'h8d; table_rom[181] = 8'hd5; table_rom[182] = 8'h4e; table_rom[183] = 8'ha9;
    table_rom[184] = 8'h6c; table_rom[185] = 8'h56; table_rom[186] = 8'hf4; table_rom[187] = 8'hea;
    table_rom[188] = 8'h65; table_rom[189] = 8'h7a; table_rom[190] = 8'hae; table_rom[191] = 8'h08;
    table_rom[192] = 8'hba; table_rom[193] = 8'h78; table_rom[194] = 8'h25; table_rom[195] = 8'h2e;
    table_rom[196] = 8'h1c; table_rom[197] = 8'ha6; table_rom[198] = 8'hb4; table_rom[199] = 8'hc6;
    table_rom[200] = 8'he8; table_rom[201] = 8'hdd; table_rom[202] = 8'h74; table_rom[203] = 8'h1f;
    table_rom[204] = 8'h4b; table_rom[205] = 8'hbd; table_rom[206] = 8'h8b; table_rom[207] = 8'h8a;
    table_rom[208] = 8'h70; table_rom[209] = 8'h3e; table_rom[210] = 8'hb5; table_rom[211] = 8'h66;
    table_rom[212] = 8'h48; table_rom[213] = 8'h03; table_rom[214] = 8'hf6; table_rom[215] = 8'h0e;
    table_rom[216] = 8'h61; table_rom[217] = 8'h35; table_rom[218] = 8'h57; table_rom[219] = 8'hb9;
    table_rom[220] = 8'h86; table_rom[221] = 8'hc1; table_rom[222] = 8'h1d; table_rom[223] = 8'h9e;
    table_rom[224] = 8'he1; table_rom[225] = 8'hf8; table_rom[226] = 8'h98; table_rom[227] = 8'h11;
    table_rom[228] = 8'h69; table_rom[229] = 8'hd9; table_rom[230] = 8'h8e; table_rom[231] = 8'h94;
    table_rom[232] = 8'h9b; table_rom[233] = 8'h1e; table_rom[234] = 8'h87; table_rom[235] = 8'he9;
    table_rom[236] = 8'hce; table_rom[237] = 8'h55; table_rom[238] = 8'h28; table_rom[239] = 8'hdf;
    table_rom[240] = 8'h8c; table_rom[241] = 8'ha1; table_rom[242] = 8'h89; table_rom[243] = 8'h0d;
    table_rom[244] = 8'hbf; table_rom[245] = 8'he6; table_rom[246] = 8'h42; table_rom[247] = 8'h68;
    table_rom[248] = 8'h41; table_rom[249] = 8'h99; table_rom[250] = 8'h2d; table_rom[251] = 8'h0f;
    table_rom[252] = 8'hb0; table_rom[253] = 8'h54; table_rom[254] = 8'hbb; table_rom[255] = 8'h16;
  end
  assign y = table_rom[a];
endmodule
