/* A machine that was suspended: CLOCK_BOOTTIME is ahead by the seconds in the file that CLOCK_OFFSET_FILE names, every
 * other clock is the kernel's. The programs ask the vDSO, each in its own way; so its function is replaced by a jump. */
#define _GNU_SOURCE
#include <elf.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *ahead;

static int clock_ahead(clockid_t id, struct timespec *at)
{
	long result = syscall(SYS_clock_gettime, id, at);

	if (result == 0 && id == CLOCK_BOOTTIME)
		at->tv_sec += *ahead;
	return (int)result;
}

static void jump_from(char *function)
{
	uintptr_t target = (uintptr_t)clock_ahead;
#if defined(__x86_64__)
	unsigned char jump[12] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0 }; /* mov rax, target; jmp rax */

	memcpy(jump + 2, &target, sizeof(target));
#elif defined(__aarch64__)
	uint32_t jump[4] = { 0x58000050, 0xd61f0200 }; /* ldr x16, target; br x16 */

	memcpy(jump + 2, &target, sizeof(target));
#endif
	memcpy(function, jump, sizeof(jump));
	__builtin___clear_cache(function, function + sizeof(jump));
}

__attribute__((constructor)) static void shift(void)
{
	const char *path = getenv("CLOCK_OFFSET_FILE");
	char *vdso = (char *)getauxval(AT_SYSINFO_EHDR);
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (file < 0 || !vdso)
		abort();
	ahead = mmap(NULL, sizeof(*ahead), PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (ahead == MAP_FAILED)
		abort();
	Elf64_Ehdr *head = (Elf64_Ehdr *)vdso;
	Elf64_Shdr *sections = (Elf64_Shdr *)(vdso + head->e_shoff);

	/* The kernel changes the mapping as a whole only; the sections' table is at its end. */
	if (mprotect(vdso, head->e_shoff + head->e_shnum * sizeof(*sections), PROT_READ | PROT_WRITE | PROT_EXEC))
		abort();
	for (int n = 0; n < head->e_shnum; n++) {
		if (sections[n].sh_type != SHT_DYNSYM)
			continue;
		const char *names = vdso + sections[sections[n].sh_link].sh_offset;
		Elf64_Sym *symbols = (Elf64_Sym *)(vdso + sections[n].sh_offset);

		for (size_t s = 0; s < sections[n].sh_size / sizeof(*symbols); s++) {
			const char *name = names + symbols[s].st_name;

			if (!strcmp(name, "__vdso_clock_gettime") || !strcmp(name, "__kernel_clock_gettime"))
				jump_from(vdso + symbols[s].st_value);
		}
	}
}
