/* The clock of one process, set by a test: preloaded, it adds to the wall clock what a file says, in
 * seconds as text. Nothing else is touched: file systems and other processes have the real time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
	int done = (int)syscall(SYS_clock_gettime, id, now);
	if (done != 0 || id != CLOCK_REALTIME)
		return done;
	const char *path = getenv("TEST_CLOCK");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return 0;
	char text[32] = {0};
	if (read(file, text, sizeof text - 1) > 0)
		now->tv_sec += strtol(text, NULL, 10);
	close(file);
	return 0;
}
