/*
 * Preloaded into a program: kills it as it is about to change a directory for the N-th time. N stands in the file that
 * DIE_AT names, and is counted down there; without the file nothing is counted. Children are left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pid_t self;
static const char *armed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void)
{
	const char *program = getenv("DIE_AT_PROGRAM");

	armed = getenv("DIE_AT");
	if (armed && program && !strcmp(program, program_invocation_short_name))
		self = getpid();
}

static void count(void)
{
	char text[16] = "";
	int file, left;

	if (!self || getpid() != self)
		return;
	pthread_mutex_lock(&lock);
	file = open(armed, O_RDWR | O_CLOEXEC);
	if (file >= 0) {
		if (pread(file, text, sizeof(text) - 1, 0) > 0) {
			left = atoi(text) - 1;
			if (left <= 0) {
				syscall(SYS_unlink, armed);
				kill(self, SIGKILL);
				for (;;)
					pause();
			}
			snprintf(text, sizeof(text), "%-12d", left);
			if (pwrite(file, text, strlen(text), 0) < 0)
				abort();
		}
		close(file);
	}
	pthread_mutex_unlock(&lock);
}

#define COUNTED(name, types, names) \
	int name types \
	{ \
		static int(*next) types; \
		if (!next) \
			next = (int(*) types)dlsym(RTLD_NEXT, #name); \
		count(); \
		return next names; \
	}

COUNTED(rename, (const char *from, const char *to), (from, to))
COUNTED(linkat, (int a, const char *from, int b, const char *to, int flags), (a, from, b, to, flags))
COUNTED(symlink, (const char *to, const char *path), (to, path))
COUNTED(mkdir, (const char *path, mode_t mode), (path, mode))
COUNTED(rmdir, (const char *path), (path))
COUNTED(unlink, (const char *path), (path))
COUNTED(unlinkat, (int at, const char *path, int flags), (at, path, flags))
