/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * Contacts with unix sockets where the kernel has no hooks for them (before 6.7). Loaded only there; records, and never
 * refuses.
 *
 * In two ways, of which one is loaded. At the end of the kernel's own functions, fexit: these run for unix sockets alone, and the
 * address is the kernel's copy. Where a kernel does not take that (arm64 before 6.4), at the end of the system calls: then
 * every system call of the host takes the longer way through its entry (30 of 115 ns were measured), the address is in
 * memory that the caller may have changed since the kernel read it, and calls by io_uring or of 32-bit programs are not
 * seen.
 *
 * At the end and not at the beginning, since only then it is known whether the socket was reached: one that is denied, and is out of
 * the run's sight (live.hides), was refused if it was not. Whatever else a rule would refuse has passed.
 *
 * A tracepoint's program cannot be replaced, so these are whole from the start: they ask for live.generation, and the loader
 * leaves nothing out of what they share (session.rs).
 */
#ifndef BLACKSTART_CONTACT_H
#define BLACKSTART_CONTACT_H

enum { AF_UNIX = 1 };
/* Messages of one sendmmsg that are looked at. */
enum { BS_BATCH = 64 };

/* Whoever is no process of the run costs this far, and no table is asked. */
static __always_inline int bs_contact_is_ours(void)
{
	return bs_current_is_inside(bpf_get_current_task_btf());
}

/* Somebody of the run reached for this address, which is `len` octets long, and got `result`. */
static __always_inline void bs_contacted(const void *address, __u32 len, long result, int of_caller)
{
	struct bs_delegate_key key = {};
	__u16 family = 0;

	if (!address || len <= sizeof(family))
		return;
	if (of_caller)
		bpf_probe_read_user(&family, sizeof(family), address);
	else
		bpf_probe_read_kernel(&family, sizeof(family), address);
	if (family != AF_UNIX)
		return;
	/* Refused for the socket that its path led to, and recorded by that socket's name. */
	if (result < 0 && bs_reach_was_refused())
		return;
	bs_contact_path(&key, address + sizeof(family), len - sizeof(family), of_caller);
	bs_contact_judge(&key, live.generation, 0);
	if (live.hides && bs_contact_resolves(&key)) {
		key.verdict = BS_DENY;
		key.rule = BS_RULE_RESOLVER_SOCKET;
	}
	if (key.verdict == BS_DENY && !(live.hides && result < 0))
		key.verdict = BS_WOULD_DENY;
	bs_contact_record(&key);
}

/* When: connect() on a unix stream or seqpacket socket has ended, anywhere on the host. Writes: delegates. */
SEC("fexit/unix_stream_connect")
int BPF_PROG(bs_met_stream, struct socket *socket, struct sockaddr *address, int len, int flags, int result)
{
	if (bs_contact_is_ours())
		bs_contacted(address, len, result, 0);
	return 0;
}

/* When: connect() on a unix datagram socket has ended, anywhere on the host. Writes: delegates. */
SEC("fexit/unix_dgram_connect")
int BPF_PROG(bs_met_datagrams, struct socket *socket, struct sockaddr *address, int len, int flags, int result)
{
	if (bs_contact_is_ours())
		bs_contacted(address, len, result, 0);
	return 0;
}

/* When: a unix datagram was sent, or not, anywhere on the host. Writes: delegates, if it had an address. */
SEC("fexit/unix_dgram_sendmsg")
int BPF_PROG(bs_met_datagram, struct socket *socket, struct msghdr *message, size_t size, int result)
{
	if (bs_contact_is_ours())
		bs_contacted(BPF_CORE_READ(message, msg_name), BPF_CORE_READ(message, msg_namelen), result, 0);
	return 0;
}

/* What perf gives the program at the end of a system call: behind the fields of every event and the call's number. */
struct bs_call_end {
	__u64 event;
	__u64 number;
	long result;
};

/* What a caller asks sendmsg for; the kernel's interface, not its own structures. */
struct bs_call_message {
	void *name;
	__u32 len;
	__u32 pad;
	__u64 rest[5];
};

struct bs_call_messages {
	struct bs_call_message message;
	__u64 sent;
};

/* What the caller asked the system call for that it is in, by the register in which it said so. */
#ifdef __TARGET_ARCH_x86
#define BS_ARGUMENT_2 si
#define BS_ARGUMENT_3 dx
#define BS_ARGUMENT_5 r8
#define BS_ARGUMENT_6 r9
#else
#define BS_ARGUMENT_2 regs[1]
#define BS_ARGUMENT_3 regs[2]
#define BS_ARGUMENT_5 regs[4]
#define BS_ARGUMENT_6 regs[5]
#endif

static __always_inline struct pt_regs *bs_call_registers(void)
{
	return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

static __always_inline void bs_call_sent(struct bs_call_message *from, long result)
{
	struct bs_call_message message = {};

	if (!bpf_probe_read_user(&message, sizeof(message), from))
		bs_contacted(message.name, message.len, result, 1);
}

/* When: connect() has ended, of any socket anywhere on the host. Writes: delegates. */
SEC("tracepoint/syscalls/sys_exit_connect")
int bs_called_connect(struct bs_call_end *call)
{
	if (bs_contact_is_ours())
		bs_contacted((void *)BPF_CORE_READ(bs_call_registers(), BS_ARGUMENT_2), BPF_CORE_READ(bs_call_registers(), BS_ARGUMENT_3), call->result, 1);
	return 0;
}

/* When: sendto() or send() has ended, of any socket anywhere on the host. Writes: delegates, if it had an address. */
SEC("tracepoint/syscalls/sys_exit_sendto")
int bs_called_sendto(struct bs_call_end *call)
{
	if (bs_contact_is_ours())
		bs_contacted((void *)BPF_CORE_READ(bs_call_registers(), BS_ARGUMENT_5), BPF_CORE_READ(bs_call_registers(), BS_ARGUMENT_6), call->result, 1);
	return 0;
}

/* When: sendmsg() has ended, of any socket anywhere on the host. Writes: delegates, if it had an address. */
SEC("tracepoint/syscalls/sys_exit_sendmsg")
int bs_called_sendmsg(struct bs_call_end *call)
{
	if (bs_contact_is_ours())
		bs_call_sent((void *)BPF_CORE_READ(bs_call_registers(), BS_ARGUMENT_2), call->result);
	return 0;
}

struct bs_call_batch {
	struct bs_call_messages *first;
	long result;
};

static long bs_call_batch_step(__u32 index, struct bs_call_batch *batch)
{
	/* The first that was not sent has no result of its own, if others were. */
	if (index && index >= batch->result)
		return 1;
	bs_call_sent(&batch->first[index].message, batch->result);
	return 0;
}

/* When: sendmmsg() has ended, of any socket anywhere on the host. Writes: delegates, for the first messages of those that had an
 * address. */
SEC("tracepoint/syscalls/sys_exit_sendmmsg")
int bs_called_sendmmsg(struct bs_call_end *call)
{
	struct bs_call_batch batch = { .result = call->result };

	if (!bs_contact_is_ours())
		return 0;
	batch.first = (void *)BPF_CORE_READ(bs_call_registers(), BS_ARGUMENT_2);
	bpf_loop(BS_BATCH, bs_call_batch_step, &batch, 0);
	return 0;
}

#endif
