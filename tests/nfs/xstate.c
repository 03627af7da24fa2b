/* Preloaded into User-Mode Linux: ptrace with room for the whole extended state of the CPU.
 *
 * UML 6.1 keeps the floating-point state of a process in a buffer of fixed size. A CPU with AMX has
 * more: reading is cut short, and writing back is refused with EFAULT, on which the guest panics.
 * What is missing lies at the end, so it is read from the process and written back as it was. One
 * thread of UML does all of it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { STATE_BYTES_MAX = 1 << 16 };

static long (*real)(int, ...);

__attribute__((constructor)) static void find(void)
{
    *(void **)&real = dlsym(RTLD_NEXT, "ptrace");
}

static long set_whole(pid_t pid, void *kind, struct iovec *given)
{
    static char state[STATE_BYTES_MAX] __attribute__((aligned(64)));
    struct iovec whole = {state, sizeof state};
    long answer = real(PTRACE_GETREGSET, pid, kind, &whole);
    if (answer < 0 || whole.iov_len <= given->iov_len)
        return real(PTRACE_SETREGSET, pid, kind, given);
    memcpy(state, given->iov_base, given->iov_len);
    return real(PTRACE_SETREGSET, pid, kind, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *addr = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);
    if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE)
        return set_whole(pid, addr, data);
    return real(request, pid, addr, data);
}
