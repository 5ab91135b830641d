/*
 * Loads and attaches empty.bpf.c's program from the object that is named, and answers each line on stdin with how often
 * it has run and for how many nanoseconds. Ends, and the program with it, when stdin does.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 2 ? bpf_object__open_file(argv[1], 0) : 0;
	struct bpf_program *program;
	char *line = 0;
	size_t size = 0;

	if (!object || bpf_object__load(object) || !(program = bpf_object__next_program(object, 0)) ||
	    !bpf_program__attach(program)) {
		perror("load the empty program");
		return 1;
	}
	setvbuf(stdout, 0, _IOLBF, 0);
	while (getline(&line, &size, stdin) > 0) {
		struct bpf_prog_info info = { 0 };
		__u32 length = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &length))
			return 1;
		printf("%llu %llu\n", info.run_cnt, info.run_time_ns);
	}
	return 0;
}
