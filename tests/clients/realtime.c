/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* realtime PRIORITY COMMAND...: run it by SCHED_FIFO, so that it takes the processor from whoever has it. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sched_param param = { .sched_priority = argc > 2 ? atoi(argv[1]) : 0 };

	if (sched_setscheduler(0, SCHED_FIFO, &param)) {
		perror("realtime: sched_setscheduler");
		return 1;
	}
	execvp(argv[2], argv + 2);
	perror("realtime: exec");
	return 1;
}
