/* Memory, streams and events. See standin.h. */
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <unistd.h>

#include "standin.h"

struct standin_event {
    bool recorded = false;
    cudaStream_t stream = nullptr;
    size_t ticket = 0; /* of the stream's work so far */
};

struct standin_stream {
    std::deque<std::function<void()>> queue;
    size_t done = 0, queued = 0;
    bool blocking = true; /* the default stream's work waits for it */
};

namespace
{

struct allocation {
    size_t bytes;
    cudaMemoryType type;
    int device;
};

struct runtime {
    std::recursive_mutex lock;
    std::map<const char *, allocation> allocations;
    std::set<cudaStream_t> streams;
    standin_stream default_stream;
    std::map<std::string, long> launches;
    int n_devices = 2, device = 0;
    long operations = 0, fail_at = 0;
    size_t allocated = 0;
    cudaError_t last = cudaSuccess;
    std::string coverage;

    runtime();
    ~runtime();
};

long number_of(const char *variable, long otherwise)
{
    const char *text = getenv(variable);
    return text && *text ? atol(text) : otherwise;
}

runtime::runtime()
{
    const char *file = getenv("T2_STANDIN_COVERAGE");
    n_devices = (int)number_of("T2_STANDIN_DEVICES", 2);
    fail_at = number_of("T2_STANDIN_FAIL_AFTER", 0);
    coverage = file ? file : "";
}

/* One write, so that the lines of processes that end together do not mix. */
runtime::~runtime()
{
    std::string lines;
    for (const auto &entry : launches)
        lines += entry.first + " " + std::to_string(entry.second) + "\n";
    if (coverage.empty() || lines.empty())
        return;
    signal(SIGXFSZ, SIG_IGN); /* a test of full disks must not end here */
    FILE *f = fopen(coverage.c_str(), "a");
    if (f) {
        setvbuf(f, nullptr, _IOFBF, lines.size() + 1);
        fputs(lines.c_str(), f);
        fclose(f);
    }
}

runtime &rt(void)
{
    static runtime one;
    return one;
}

typedef std::lock_guard<std::recursive_mutex> guard;

standin_stream *stream_of(cudaStream_t stream)
{
    return stream ? stream : &rt().default_stream;
}

cudaError_t failed(cudaError_t error)
{
    if (error != cudaSuccess)
        rt().last = error;
    return error;
}

/* Runs a stream's work up to a ticket. */
void run_until(standin_stream *stream, size_t ticket)
{
    while (stream->done < ticket) {
        std::function<void()> work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->done++;
        work();
    }
}

void run_all(void)
{
    run_until(&rt().default_stream, rt().default_stream.queued);
    for (cudaStream_t stream : rt().streams)
        run_until(stream, stream->queued);
}

/* What a synchronous call, on the default stream, waits for. */
void run_blocking(void)
{
    run_until(&rt().default_stream, rt().default_stream.queued);
    for (cudaStream_t stream : rt().streams)
        if (stream->blocking)
            run_until(stream, stream->queued);
}

const std::pair<const char *const, allocation> *find(const void *p)
{
    auto at = rt().allocations.upper_bound((const char *)p);
    if (at == rt().allocations.begin())
        return nullptr;
    --at;
    return (const char *)p < at->first + at->second.bytes ? &*at : nullptr;
}

} // namespace

/* ---- what tests ask for ---------------------------------------------------------------------- */

void standin_fail_after(long n)
{
    guard g(rt().lock);
    rt().fail_at = n > 0 ? rt().operations + n : 0;
}

long standin_operations(void)
{
    return rt().operations;
}

size_t standin_allocated(void)
{
    return rt().allocated;
}

void standin_expect_tensor(const void *p, const char *what, const char *function)
{
    guard g(rt().lock);
    if (p && !find(p)) {
        fprintf(stderr, "stand-in: %s: %s is no tensor: not in the device's memory\n", function,
                what);
        abort();
    }
}

bool standin_count(const char *)
{
    guard g(rt().lock);
    return ++rt().operations != rt().fail_at;
}

void standin_enqueue(cudaStream_t stream, std::function<void()> work)
{
    guard g(rt().lock);
    standin_stream *s = stream_of(stream);
    s->queue.push_back(std::move(work));
    s->queued++;
}

void standin_launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                    cudaStream_t stream, std::function<void()> thread)
{
    guard g(rt().lock);
    const size_t threads = (size_t)block.x * block.y * block.z;
    if (!standin_count(name)) {
        failed(cudaErrorLaunchFailure);
        return;
    }
    if (threads < 1 || threads > 1024 || block.z > 64 || grid.x < 1 || grid.y < 1 || grid.z < 1 ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || shared_bytes > 227 << 10) {
        failed(cudaErrorInvalidConfiguration);
        return;
    }
    std::string plain = name; /* "(kernel<float>)" is kernel */
    plain = plain.substr(plain[0] == '(', plain.find('<') - (plain[0] == '('));
    rt().launches[plain]++;
    standin_enqueue(stream, [=] { standin_run_grid(name, grid, block, shared_bytes, thread); });
}

/* ---- devices --------------------------------------------------------------------------------- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = rt().n_devices;
    return *count > 0 ? cudaSuccess : failed(cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    if (device < 0 || device >= rt().n_devices)
        return failed(cudaErrorInvalidDevice);
    *properties = cudaDeviceProp{};
    snprintf(properties->name, sizeof properties->name, "stand-in for a CUDA device");
    memcpy(properties->uuid.bytes, "stand-in", 8);
    properties->uuid.bytes[8] = (char)device;
    properties->totalGlobalMem = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGE_SIZE);
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = 227 << 10;
    properties->major = 9;
    properties->multiProcessorCount = 2;
    properties->maxThreadsPerBlock = 1024;
    properties->managedMemory = properties->concurrentManagedAccess = 1;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= rt().n_devices)
        return failed(cudaErrorInvalidDevice);
    rt().device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = rt().device;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    const size_t page = (size_t)sysconf(_SC_PAGE_SIZE);
    *free = (size_t)sysconf(_SC_AVPHYS_PAGES) * page;
    *total = (size_t)sysconf(_SC_PHYS_PAGES) * page;
    return cudaSuccess;
}

cudaError_t cudaPeekAtLastError(void)
{
    return rt().last;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t last = rt().last;
    rt().last = cudaSuccess;
    return last;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    default:
        return "cudaErrorOther";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    default:
        return "unknown error";
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

cudaError_t standin_allocate(void **p, size_t bytes, cudaMemoryType type)
{
    guard g(rt().lock);
    *p = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    if (!standin_count("an allocation") || bytes > SIZE_MAX / 2)
        return failed(cudaErrorMemoryAllocation);
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!*p)
        return failed(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    rt().allocations[(const char *)*p] = allocation{bytes, type, rt().device};
    rt().allocated += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    guard g(rt().lock);
    if (!p)
        return cudaSuccess;
    auto at = rt().allocations.find((const char *)p);
    if (at == rt().allocations.end())
        return failed(cudaErrorInvalidValue);
    run_all();
    rt().allocated -= at->second.bytes;
    rt().allocations.erase(at);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    return cudaFree(p);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p)
{
    guard g(rt().lock);
    const auto *at = find(p);
    *attributes = cudaPointerAttributes{};
    if (at) {
        attributes->type = at->second.type;
        attributes->device = at->second.device;
        attributes->devicePointer = (void *)p;
        attributes->hostPointer = at->second.type == cudaMemoryTypeDevice ? nullptr : (void *)p;
    }
    return cudaSuccess;
}

cudaError_t cudaMemAdvise(const void *p, size_t, cudaMemoryAdvise, cudaMemLocation)
{
    guard g(rt().lock);
    const auto *at = find(p);
    return at && at->second.type == cudaMemoryTypeManaged ? cudaSuccess
                                                          : failed(cudaErrorInvalidValue);
}

cudaError_t cudaMemPrefetchAsync(const void *p, size_t bytes, cudaMemLocation location, unsigned,
                                 cudaStream_t)
{
    return cudaMemAdvise(p, bytes, cudaMemAdviseSetPreferredLocation, location);
}

/* The device's side of a copy or fill must be the runtime's memory. */
static bool both_known(const void *to, const void *from, cudaMemcpyKind kind)
{
    return (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost || find(to)) &&
           (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost || find(from));
}

cudaError_t cudaMemset(void *p, int value, size_t bytes)
{
    guard g(rt().lock);
    if (!standin_count("a fill") || (bytes > 0 && !find(p)))
        return failed(cudaErrorInvalidValue);
    run_blocking();
    memset(p, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream)
{
    guard g(rt().lock);
    if (!standin_count("a fill") || (bytes > 0 && !find(p)))
        return failed(cudaErrorInvalidValue);
    standin_enqueue(stream, [=] { memset(p, value, bytes); });
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    guard g(rt().lock);
    if (!standin_count("a copy") || (kind != cudaMemcpyDefault && !both_known(to, from, kind)))
        return failed(cudaErrorInvalidValue);
    run_blocking();
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind, cudaStream_t stream)
{
    guard g(rt().lock);
    if (!standin_count("a copy") || (kind != cudaMemcpyDefault && !both_known(to, from, kind)))
        return failed(cudaErrorInvalidValue);
    standin_enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++)
            memcpy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width);
    });
    return cudaSuccess;
}

/* ---- streams and events ---------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    guard g(rt().lock);
    if (!standin_count("a stream"))
        return failed(cudaErrorMemoryAllocation);
    *stream = new standin_stream;
    (*stream)->blocking = flags != cudaStreamNonBlocking;
    rt().streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, 0);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    guard g(rt().lock);
    run_until(stream_of(stream), stream_of(stream)->queued);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    guard g(rt().lock);
    if (!stream || rt().streams.count(stream) == 0)
        return failed(cudaErrorInvalidValue);
    cudaStreamSynchronize(stream);
    rt().streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    guard g(rt().lock);
    run_all();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    guard g(rt().lock);
    if (!standin_count("an event"))
        return failed(cudaErrorMemoryAllocation);
    *event = new standin_event;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, 0);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    guard g(rt().lock);
    event->recorded = true;
    event->stream = stream;
    event->ticket = stream_of(stream)->queued;
    return cudaSuccess;
}

static void event_reach(const standin_event &event)
{
    if (event.recorded && (!event.stream || rt().streams.count(event.stream) > 0))
        run_until(stream_of(event.stream), event.ticket);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    guard g(rt().lock);
    event_reach(*event);
    return cudaSuccess;
}

/* The event as it is recorded now. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    guard g(rt().lock);
    const standin_event recorded = *event;
    standin_enqueue(stream, [recorded] { event_reach(recorded); });
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t, cudaEvent_t)
{
    *milliseconds = 1;
    return cudaSuccess;
}
