/* Kernels on the CPU: fibers, barriers, shuffles. See standin.h. */
#include "standin.h"

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace
{

enum {
    MAX_THREADS = 1024,
    WARP = 32,
    STACK_BYTES = 256 << 10,
    COLOURS = 128,
    COLOUR_BYTES = 512,
    SHUFFLE_BYTES = 16
};

/* ---- switching stacks ------------------------------------------------------------------------ */

void fiber_main(void);

#if defined(__x86_64__)
/* What a call must preserve (System V ABI) goes on the stack that is left. */
extern "C" void standin_switch(void **save, void *to);
__asm__(".text\n"
        ".globl standin_switch\n"
        ".type standin_switch, @function\n"
        "standin_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size standin_switch, . - standin_switch\n");

struct context {
    void *sp;
};

void context_make(context *c, char *stack, size_t bytes)
{
    void **top = (void **)(stack + bytes) - 1; /* as after a call: 8 off 16 */
    top[0] = nullptr;
    top[-1] = (void *)fiber_main;
    for (int i = 2; i <= 7; i++)
        top[-i] = nullptr;
    c->sp = top - 7;
}

void context_switch(context *from, context *to)
{
    standin_switch(&from->sp, to->sp);
}
#else
struct context {
    ucontext_t u;
};

void context_make(context *c, char *stack, size_t bytes)
{
    getcontext(&c->u);
    c->u.uc_stack.ss_sp = stack;
    c->u.uc_stack.ss_size = bytes;
    c->u.uc_link = nullptr;
    makecontext(&c->u, fiber_main, 0);
}

void context_switch(context *from, context *to)
{
    swapcontext(&from->u, &to->u);
}
#endif

/* ---- a block --------------------------------------------------------------------------------- */

enum thread_state { UNSTARTED, READY, AT_BARRIER, AT_SHUFFLE, FINISHED };

struct fiber {
    context c;
    char *stack;
};

struct warp {
    int arrived, finished, line;
    unsigned turn; /* of two sets of slots: a lane may be one shuffle ahead of another */
    alignas(16) char slots[2][WARP][SHUFFLE_BYTES];
};

struct block {
    const char *kernel;
    const std::function<void()> *thread;
    int n_threads, arrived, finished, line;
    bool blocked; /* some thread has waited */
    int current;
    thread_state states[MAX_THREADS];
    fiber *fibers[MAX_THREADS];
    uint3 indices[MAX_THREADS];
    warp warps[MAX_THREADS / WARP];
};

block now;
context scheduler;
fiber *running;
std::vector<fiber *> idle_fibers;
size_t n_fibers;
std::vector<unsigned char> dynamic_shared;

[[noreturn]] void die(const char *what, int line, int other)
{
    fprintf(stderr,
            "stand-in: kernel %s, block %u %u %u of %d threads, thread %d: %s (line %d, line %d)\n",
            now.kernel, blockIdx.x, blockIdx.y, blockIdx.z, now.n_threads, now.current, what, line,
            other);
    abort();
}

void enter(int thread)
{
    now.current = thread;
    now.states[thread] = READY;
    threadIdx = now.indices[thread];
}

void finish(int thread)
{
    warp *w = &now.warps[thread / WARP];
    now.states[thread] = FINISHED;
    now.finished++;
    w->finished++;
    if (now.arrived > 0)
        die("ends while others wait at __syncthreads", now.line, 0);
    if (w->arrived > 0)
        die("ends while lanes of its warp wait at a shuffle", w->line, 0);
}

/* A fiber runs a thread, and the next ones too while none of the block has had to wait. */
void fiber_main(void)
{
    for (;;) {
        for (;;) {
            const int thread = now.current;
            (*now.thread)();
            finish(thread);
            if (now.blocked || thread + 1 >= now.n_threads || now.states[thread + 1] != UNSTARTED)
                break;
            now.fibers[thread + 1] = now.fibers[thread];
            enter(thread + 1);
        }
        idle_fibers.push_back(running); /* taken, at the earliest, when this one has stopped */
        context_switch(&running->c, &scheduler);
    }
}

fiber *fiber_take(void)
{
    fiber *f;
    if (!idle_fibers.empty()) {
        f = idle_fibers.back();
        idle_fibers.pop_back();
        return f;
    }
    f = new fiber;
    f->stack = (char *)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED) {
        fprintf(stderr, "stand-in: no memory for a thread's stack\n");
        abort();
    }
    mprotect(f->stack, 4096, PROT_NONE);
    /* Tops at one place of their pages would all want the same lines of the caches. */
    context_make(&f->c, f->stack, STACK_BYTES - n_fibers++ % COLOURS * COLOUR_BYTES);
    return f;
}

/* Makes a thread the one that runs; the caller switches to its fiber. */
void choose(int thread)
{
    if (now.states[thread] == UNSTARTED)
        now.fibers[thread] = fiber_take();
    enter(thread);
    running = now.fibers[thread];
}

bool can_run(int thread)
{
    return now.states[thread] == UNSTARTED || now.states[thread] == READY;
}

/* On to the next lane of the warp, or back to the scheduler. */
void wait_here(thread_state state)
{
    fiber *self = running;
    const int thread = now.current, warp_end = thread / WARP * WARP + WARP;
    const int end = warp_end < now.n_threads ? warp_end : now.n_threads;
    int next = thread + 1;

    now.states[thread] = state;
    now.blocked = true;
    while (next < end && !can_run(next))
        next++;
    if (next == end) {
        context_switch(&self->c, &scheduler);
    } else {
        choose(next);
        context_switch(&self->c, &running->c);
    }
}

bool run_warp(int first, int end)
{
    bool any = false;
    for (bool again = true; again;) {
        again = false;
        for (int t = first; t < end; t++)
            if (can_run(t)) {
                choose(t);
                context_switch(&scheduler, &running->c);
                again = any = true;
            }
    }
    return any;
}

void run_block(void)
{
    const int n = now.n_threads;
    now.arrived = now.finished = 0;
    now.blocked = false;
    for (int t = 0; t < n; t++)
        now.states[t] = UNSTARTED;
    for (int w = 0; w * WARP < n; w++)
        now.warps[w].arrived = now.warps[w].finished = 0;
    if (!dynamic_shared.empty())
        memset(dynamic_shared.data(), 0xff, dynamic_shared.size());
    while (now.finished < n) {
        bool any = false;
        for (int first = 0; first < n; first += WARP)
            any |= run_warp(first, first + WARP < n ? first + WARP : n);
        if (!any)
            die("its block waits for ever: some threads at __syncthreads, some at a shuffle",
                now.line, 0);
    }
}

void copy_value(void *to, const void *from, size_t size)
{
    if (size == 4)
        memcpy(to, from, 4);
    else
        memcpy(to, from, size);
}

} // namespace

void standin_syncthreads(int line)
{
    if (now.finished > 0)
        die("waits at __syncthreads, and threads of its block have ended", line, 0);
    if (now.arrived > 0 && now.line != line)
        die("waits at __syncthreads, and others wait at another", line, now.line);
    now.line = line;
    if (++now.arrived < now.n_threads) {
        wait_here(AT_BARRIER);
        return;
    }
    now.arrived = 0;
    for (int t = 0; t < now.n_threads; t++)
        now.states[t] = READY;
}

void standin_shuffle(int line, unsigned mask, int width, const void *value, void *result,
                     size_t size, int from)
{
    const int thread = now.current, lane = thread % WARP, first = thread - lane;
    warp *w = &now.warps[thread / WARP];
    if (mask != 0xffffffffu || now.n_threads % WARP != 0)
        die("shuffles without the full warp", line, 0);
    if (size > SHUFFLE_BYTES || width < 1 || width > WARP || from < 0 || from >= WARP)
        die("shuffles from no lane, or too much", line, 0);
    if (w->finished > 0)
        die("shuffles, and lanes of its warp have ended", line, 0);
    if (w->arrived > 0 && w->line != line)
        die("shuffles, and lanes of its warp do so elsewhere", line, w->line);
    if (w->arrived == 0)
        w->turn ^= 1;
    const unsigned turn = w->turn;
    w->line = line;
    copy_value(w->slots[turn][lane], value, size);
    if (++w->arrived < WARP) {
        wait_here(AT_SHUFFLE);
    } else {
        w->arrived = 0;
        for (int t = first; t < first + WARP; t++)
            now.states[t] = READY;
    }
    copy_value(result, w->slots[turn][from], size);
}

unsigned char *standin_dynamic_shared(void)
{
    return dynamic_shared.data();
}

void standin_run_grid(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                      const std::function<void()> &thread)
{
    const size_t n = (size_t)grid.x * grid.y * grid.z;
    size_t stride = n / 2 + 1;

    now.kernel = name;
    now.thread = &thread;
    now.n_threads = (int)(block.x * block.y * block.z);
    blockDim = block;
    gridDim = grid;
    /* Fresh, so that a sanitizer sees where it ends. */
    std::vector<unsigned char>(shared_bytes).swap(dynamic_shared);
    for (int t = 0; t < now.n_threads; t++)
        now.indices[t] = uint3{(unsigned)t % block.x, (unsigned)t / block.x % block.y,
                               (unsigned)t / block.x / block.y};
    while (std::gcd(stride, n) != 1)
        stride++;
    for (size_t i = 0, b = n / 3; i < n; i++, b = (b + stride) % n) {
        blockIdx = uint3{(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y),
                         (unsigned)(b / grid.x / grid.y)};
        run_block();
    }
}
