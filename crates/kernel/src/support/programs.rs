//! What `bpf()` and `clone3()` take, asked of the running kernel and not of its version: distributions
//! carry features back, and hardened kernels leave them out.

use std::ffi::{CStr, c_long};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::libbpf_sys as sys;
use libbpf_rs::{MapType, ProgramType};

use super::{Bpf, Support};

/// A program type together with the hook that it is meant for.
type Hook = (sys::bpf_prog_type, sys::bpf_attach_type);

const CONNECT4: Hook = (
    sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    sys::BPF_CGROUP_INET4_CONNECT,
);
const SENDMSG4: Hook = (
    sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    sys::BPF_CGROUP_UDP4_SENDMSG,
);
const CONNECT_UNIX: Hook = (
    sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    sys::BPF_CGROUP_UNIX_CONNECT,
);
const EGRESS: Hook = (sys::BPF_PROG_TYPE_CGROUP_SKB, sys::BPF_CGROUP_INET_EGRESS);
const EXEC: Hook = (sys::BPF_PROG_TYPE_TRACING, sys::BPF_TRACE_RAW_TP);
const REACH_UNIX: Hook = (sys::BPF_PROG_TYPE_LSM, sys::BPF_LSM_CGROUP);
const SOCK_CREATE: Hook = (
    sys::BPF_PROG_TYPE_CGROUP_SOCK,
    sys::BPF_CGROUP_INET_SOCK_CREATE,
);
const SOCK_OPS: Hook = (sys::BPF_PROG_TYPE_SOCK_OPS, sys::BPF_CGROUP_SOCK_OPS);
const SK_MSG: Hook = (sys::BPF_PROG_TYPE_SK_MSG, sys::BPF_SK_MSG_VERDICT);
const SOCK_RELEASE: Hook = (
    sys::BPF_PROG_TYPE_CGROUP_SOCK,
    sys::BPF_CGROUP_INET_SOCK_RELEASE,
);

/// What it takes of all that a run's plan depends on.
pub(super) fn bpf(facts: &Support) -> Bpf {
    if facts.may_load() == Some(false) {
        // Every answer would be EPERM, which says nothing about the kernel.
        return Bpf::default();
    }
    Bpf {
        cgroup_skb: takes(EGRESS, &[]),
        connect: takes(CONNECT4, &[]),
        sendmsg: takes(SENDMSG4, &[]),
        sock_create: takes(SOCK_CREATE, &[call(sys::BPF_FUNC_get_current_pid_tgid)]),
        sock_release: takes(SOCK_RELEASE, &[]),
        // Without type information the answer is known; with it, finding out is for `tracing`.
        tracing: facts.btf.filter(|there| !there),
        connect_unix: takes(CONNECT_UNIX, &[]),
        set_retval: takes(
            CONNECT4,
            &[set_register(1, -1), call(sys::BPF_FUNC_set_retval)],
        ),
        bounded_loop: ProgramType::CgroupSkb
            .is_helper_supported(sys::BPF_FUNC_loop)
            .ok(),
        ring_buffer: MapType::RingBuf.is_supported().ok(),
        // Few policies want them, and the loader finds out.
        sock_ops: None,
        sk_msg: None,
        socket_names: None,
    }
}

/// Does it take what reads the names that connections give?
pub(super) fn claims(facts: &Support) -> (Option<bool>, Option<bool>) {
    if facts.may_load() == Some(false) {
        return (None, None);
    }
    let table = MapType::Sockhash.is_supported().ok();
    let both = match (takes(SK_MSG, &[]), table) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    };
    (takes(SOCK_OPS, &[]), both)
}

/// Does it take typed tracepoints? To tell, the kernel's type information must be read, all five megabytes of it; a run
/// leaves that to the loader, which reads it anyway.
pub(super) fn tracing(facts: &Support) -> Option<bool> {
    if facts.may_load() == Some(false) {
        None
    } else if facts.btf == Some(false) {
        // libbpf would complain on standard error.
        Some(false)
    } else {
        takes_tracepoint()
    }
}

/// Does it take programs that see which unix socket is reached? As for tracepoints, its type information is read.
pub(super) fn socket_names(facts: &Support) -> Option<bool> {
    if facts.may_load() == Some(false) {
        None
    } else if facts.btf == Some(false) {
        Some(false)
    } else {
        takes_by_name(REACH_UNIX, c"unix_stream_connect", 1)
    }
}

/// Does the kernel accept a program for `hook` that does `body` and then allows?
fn takes(hook: Hook, body: &[sys::bpf_insn]) -> Option<bool> {
    let mut program = body.to_vec();
    program.extend([set_register(0, 1), instruction(EXIT, 0, 0)]);
    load(hook, 0, &program)
}

/// Typed tracepoints are named by a number in the kernel's own type information. libbpf's probe of the
/// program type tries a function instead, which hardened kernels refuse while they take tracepoints.
fn takes_tracepoint() -> Option<bool> {
    takes_by_name(EXEC, c"sched_process_exec", 0)
}

/// A program for what has this name in the kernel's type information, which returns `code`.
fn takes_by_name(hook: Hook, name: &CStr, code: i32) -> Option<bool> {
    // SAFETY: the name is a C string; libbpf reads it and keeps nothing.
    let id = unsafe { sys::libbpf_find_vmlinux_btf_id(name.as_ptr(), hook.1) };
    match u32::try_from(id) {
        Ok(id) => load(hook, id, &[set_register(0, code), instruction(EXIT, 0, 0)]),
        Err(_) if id == -libc::EPERM || id == -libc::EACCES => None,
        Err(_) => Some(false),
    }
}

/// Offers `program` and takes it back at once.
fn load(hook: Hook, tracepoint: u32, program: &[sys::bpf_insn]) -> Option<bool> {
    let mut options = sys::bpf_prog_load_opts {
        sz: size_of::<sys::bpf_prog_load_opts>() as sys::size_t,
        expected_attach_type: hook.1,
        attach_btf_id: tracepoint,
        ..Default::default()
    };
    // SAFETY: every pointer is null (a program needs no name), a C string, or points at live memory of
    // the length given beside it; libbpf keeps none of them.
    let loaded = unsafe {
        sys::bpf_prog_load(
            hook.0,
            ptr::null(),
            c"Dual MIT/GPL".as_ptr(),
            program.as_ptr(),
            program.len() as sys::size_t,
            &raw mut options,
        )
    };
    if loaded >= 0 {
        // SAFETY: the call above just gave us this descriptor, and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(loaded) });
        return Some(true);
    }
    match -loaded {
        libc::EINVAL | libc::EACCES | libc::ENOTSUP | libc::ENOSYS | libc::E2BIG => Some(false),
        _ => None,
    }
}

// Opcodes from linux/bpf.h and linux/bpf_common.h, composed: class | source | operation.
const MOVE: u8 = 0x07 | 0xb0;
const CALL: u8 = 0x05 | 0x80;
const EXIT: u8 = 0x05 | 0x90;

fn instruction(code: u8, register: u8, immediate: i32) -> sys::bpf_insn {
    let mut instruction = sys::bpf_insn {
        code,
        imm: immediate,
        ..Default::default()
    };
    instruction.set_dst_reg(register);
    instruction
}

fn set_register(register: u8, value: i32) -> sys::bpf_insn {
    instruction(MOVE, register, value)
}

fn call(helper: sys::bpf_func_id) -> sys::bpf_insn {
    instruction(CALL, 0, helper.cast_signed())
}

/// Asks for a child in a cgroup that cannot be: a kernel with the flag answers EBADF, one without it
/// EINVAL or E2BIG, and a seccomp filter that hides clone3 something else. No child in any case.
pub(super) fn clone_into_cgroup() -> Option<bool> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: a structure of integers, for which all zeroes is a value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.cgroup = i32::MAX as u64;
    // SAFETY: the arguments are live and of the size given. The call cannot succeed, since no process
    // may have a descriptor of that number (the ceiling of fs.nr_open lies below it).
    let child: c_long = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    if child == 0 {
        // SAFETY: were there a child after all, it must vanish without running a destructor.
        unsafe { libc::_exit(0) };
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EBADF) => Some(true),
        Some(libc::EINVAL | libc::E2BIG | libc::ENOSYS | libc::EPERM) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_capability_the_kernel_is_not_blamed() {
        let mut facts = Support::for_run();
        facts.capabilities = Some(super::super::Capabilities::default());
        assert_eq!(bpf(&facts), Bpf::default());
    }

    /// A helper number that no kernel has is refused, so `Some(true)` elsewhere means something.
    #[test]
    fn an_unknown_helper_is_not_taken() {
        let verdict = takes(CONNECT4, &[call(0x7fff_fff0)]);
        if Support::for_run().may_load() == Some(true) {
            assert_eq!(verdict, Some(false));
        } else {
            assert_ne!(verdict, Some(true));
        }
    }
}
