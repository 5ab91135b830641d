/*
 * Does nothing, where the guard's program is that follows forks: what remains is the kernel's own reading of the clock around
 * it, and memory that is cold. Runs for every fork on the host, writes nothing, cannot fail.
 */
char _license[] __attribute__((section("license"))) = "Dual MIT/GPL";

__attribute__((section("tp_btf/sched_process_fork"), used)) int empty(void *ctx)
{
	(void)ctx;
	return 0;
}
