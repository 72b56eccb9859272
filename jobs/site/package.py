# A Spack package: copy it to packages/t2/package.py of a repository of your own, set the URL, then
#
#   spack install t2
try:
    from spack_repo.builtin.build_systems.cmake import CMakePackage, generator
except ImportError:  # before Spack 1.0 the line below brings them
    pass
from spack.package import *


class T2(CMakePackage):
    """Adapts and evaluates large language models on MPI clusters: distributed SVD, SVF experts trained
    by reinforcement learning, mixtures of experts, evaluation; everything in HDF5."""

    homepage = "https://example.org/t2"
    git = "https://example.org/t2.git"

    version("main", branch="main")

    depends_on("c", type="build")
    depends_on("cmake@3.23:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("openmpi")
    depends_on("openblas threads=openmp")
    depends_on("netlib-scalapack")
    depends_on("hdf5@1.10.7: +mpi +shared")
    depends_on("elpa", when="+elpa")
    depends_on("random123")
    depends_on("jansson")
    depends_on("pcre2 +jit")
    depends_on("utf8proc")
    depends_on("libinih")
    depends_on("sqlite")
    depends_on("openssl")
    depends_on("gnuplot", type="run", when="+figures")
    depends_on("bubblewrap", type="run", when="+sandbox")
    depends_on("cmocka", type="test")

    variant("elpa", default=False, description="ELPA for matrices on grids of ranks")
    variant("figures", default=True, description="gnuplot for t2 report")
    variant("sandbox", default=True, description="bubblewrap for code tasks")

    generator("ninja")

    def cmake_args(self):
        return [self.define("BUILD_TESTING", self.run_tests)]
