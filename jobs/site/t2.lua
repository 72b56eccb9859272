-- A module file for Lmod: copy it to MODULEPATH/t2/0.1.0.lua and set `prefix` to the folder given to
-- cmake --install build/release --prefix.
whatis("t2: adapts and evaluates large language models on MPI clusters")
local prefix = "/path/to/t2"
load("openmpi", "openblas", "hdf5")
prepend_path("PATH", pathJoin(prefix, "bin"))
-- Where data sets and models lie, so that tasks are found by name:
-- setenv("T2_DATA", "/path/to/datasets")
-- setenv("T2_MODELS", "/path/to/models")
