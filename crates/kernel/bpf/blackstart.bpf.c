/* SPDX-License-Identifier: (MIT OR Apache-2.0) OR GPL-2.0-only */
/*
 * All programs of a run, one object: they share maps, are loaded together and pinned together. One file per
 * feature; which features are loaded is the loader's plan.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

enum {
	IPPROTO_TCP = 6,
	IPPROTO_UDP = 17,
	IPPROTO_ESP = 50,
	IPPROTO_AH = 51,
	IPPROTO_UDPLITE = 136,
	SOCK_STREAM = 1,
	EBUSY = 16,
	EEXIST = 17,
	ECONNREFUSED = 111,
};

#include "abi.h"
#include "verifier.bpf.h"
#include "tables.bpf.h"
#include "name.bpf.h"
#include "attempt.bpf.h"
#include "path.bpf.h"
#include "place.bpf.h"
#include "subject.bpf.h"
#include "cgroup.bpf.h"
#include "process.bpf.h"
#include "forward.bpf.h"
#include "socket.bpf.h"
#include "kind.bpf.h"
#include "unix.bpf.h"
#include "reach.bpf.h"
#include "contact.bpf.h"
#include "header.bpf.h"
#include "query.bpf.h"
#include "packet.bpf.h"
#include "wire.bpf.h"
#include "lease.bpf.h"
#include "answer.bpf.h"
#include "refill.bpf.h"
#include "head.bpf.h"
#include "hello.bpf.h"
#include "request.bpf.h"
#include "claim.bpf.h"
#include "message.bpf.h"
#include "established.bpf.h"

/* Types that appear in no map: named here so that they are in the object's BTF, from which the Rust side is
 * generated. */
struct bs_event bs_type_event SEC(".data.types");
struct bs_refill bs_type_refill SEC(".data.types");
enum bs_refill_kind bs_type_refill_kind SEC(".data.types");
enum bs_flags bs_type_flags SEC(".data.types");
enum bs_failure bs_type_failure SEC(".data.types");
struct bs_lookup_event bs_type_lookup_event SEC(".data.types");
enum bs_layout bs_type_layout SEC(".data.types");
enum bs_port_list bs_type_port_list SEC(".data.types");
enum bs_search_list bs_type_search_list SEC(".data.types");
enum bs_edge_table bs_type_edge_table SEC(".data.types");
enum bs_verdict bs_type_verdict SEC(".data.types");
enum bs_effect bs_type_effect SEC(".data.types");
enum bs_known bs_type_known SEC(".data.types");
enum bs_attribution bs_type_attribution SEC(".data.types");
enum bs_event_kind bs_type_event_kind SEC(".data.types");
enum bs_late bs_type_late SEC(".data.types");
enum bs_tracer_room bs_type_tracer_room SEC(".data.types");

char LICENSE[] SEC("license") = "Dual MIT/GPL";
