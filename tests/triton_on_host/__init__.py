"""Runs on the CPU the PTX that Triton compiles for sm_90, and refuses what a GPU would not forgive.

`driver` stands in for libcuda, so that Triton's own compiler and launcher run; `ptx` parses,
`instructions` and `arithmetic` execute one block at a time, vectorised over its threads; `memory`
checks bounds, alignment and races. What is refused raises `memory.Fault`. Not emulated: how ptxas
contracts and schedules, clusters, tensor cores, time. Not refused: races between the lanes of one
`stmatrix`, whose bytes become NaN instead.
"""
