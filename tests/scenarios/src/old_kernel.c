/* The kernel without what is optional: preadv2 with RWF_NOWAIT on a TUN device (Linux 6.4), UDP super-packets there
 * (6.2), PR_GET_AUXV (6.4), joined receives (5.0) and segmented sends (4.18) of UDP, and SO_MEMINFO (4.12). While the file
 * BROKEN_READS exists, plain reads of a TUN device fail too. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <net/if.h>
#include <unistd.h>

#define USO 0x60UL
#define OPTION_SEGMENT 103
#define OPTION_GRO 104
#define OPTION_MEMINFO 55
#define GET_AUXV 0x41555856

static int is_tun(int fd)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	return syscall(SYS_ioctl, fd, TUNGETIFF, &request) == 0;
}

static long refuse(int error)
{
	errno = error;
	return -1;
}

/* Made by a library that calls the kernel itself, so that only the kernel can refuse it. */
__attribute__((constructor)) static void refuse_auxv(void)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, GET_AUXV, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(rules) / sizeof(rules[0]), rules };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

ssize_t preadv2(int fd, const struct iovec *vectors, int count, off_t offset, int flags)
{
	if (flags != 0 && is_tun(fd))
		return refuse(EOPNOTSUPP);
	return syscall(SYS_preadv2, fd, vectors, count, offset, 0L, flags);
}

ssize_t preadv64v2(int fd, const struct iovec *vectors, int count, off64_t offset, int flags)
{
	return preadv2(fd, vectors, count, offset, flags);
}

ssize_t read(int fd, void *buffer, size_t length)
{
	/* No other read has so much room. */
	if (length > 65536 && is_tun(fd) && access(BROKEN_READS, F_OK) == 0)
		return refuse(EOPNOTSUPP);
	return syscall(SYS_read, fd, buffer, length);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	unsigned long argument;

	va_start(arguments, request);
	argument = va_arg(arguments, unsigned long);
	va_end(arguments);
	if (request == TUNSETOFFLOAD && (argument & USO))
		return refuse(EINVAL);
	return syscall(SYS_ioctl, fd, request, argument);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	if (level == IPPROTO_UDP && (name == OPTION_SEGMENT || name == OPTION_GRO))
		return refuse(ENOPROTOOPT);
	return syscall(SYS_setsockopt, fd, level, name, value, length);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
	if (level == SOL_SOCKET && name == OPTION_MEMINFO)
		return refuse(ENOPROTOOPT);
	return syscall(SYS_getsockopt, fd, level, name, value, length);
}
