# ISA-specific kernels: each source is compiled with the flags of its instruction set and chosen at run time.
