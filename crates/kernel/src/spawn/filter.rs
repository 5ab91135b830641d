//! What a command may not ask the kernel for, as filters that no process gets rid of again.
//!
//! **Where the default denies: no socket of a family that no program sees.**
//! `cgroup/sock_create` runs for internet sockets only. A packet, vsock or other socket would neither be judged when it is
//! made nor when it sends, so the command and all that comes of it cannot make one: a seccomp filter, which no process
//! gets rid of again. io_uring makes sockets without that system call, and out of the filter's sight, hence none of it.
//!
//! **Where it is contained: nothing that takes effect outside of it without a capability.** Root may be any user, and may do to a
//! process of that user outside what one of its own may do to another: a unix socket that such a process listens on gives a
//! descriptor of it (SO_PEERPIDFD, from 6.5 on), and with that its sockets, which no program of the run judges, or its user
//! namespace. And the terminal is also that of the shell outside, for which keys can be put into it.
//!
//! A filter is installed with CAP_SYS_ADMIN and without `no_new_privs`: sudo and su inside go on working.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::io;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Families of sockets that are judged (internet, unix) or that reach nobody but the kernel (netlink).
const FAMILIES: [i32; 4] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// `io_uring_setup`, `_enter`, `_register`: the same numbers wherever there are any.
const IO_URING: [i64; 3] = [425, 426, 427];

/// A way of calling the kernel, by its number in `linux/audit.h`, and its numbers of the system calls in question.
struct Abi {
    arch: u32,
    /// `socket`, `socketpair`: the first argument is a family.
    makers: &'static [i64],
    /// `socketcall`: the first argument says which call is meant, the family lies where no filter can look.
    socketcall: Option<i64>,
    /// Added to a number by those who call in yet another way, which shares `arch`.
    also: Option<i64>,
    /// `ioctl`: the second argument is a request.
    ioctl: &'static [i64],
    /// `setns`: the second argument has the kinds of namespaces.
    setns: i64,
}

/// `pidfd_getfd`: the same number wherever there is one.
const PIDFD_GETFD: i64 = 438;

/// TIOCSTI and TIOCLINUX of `asm-generic/ioctls.h`: keys that nobody pressed, what was selected on a console.
const KEYS: [u64; 2] = [0x5412, 0x541c];

/// Of `linux/sched.h`.
const CLONE_NEWUSER: u64 = 0x1000_0000;

/// The first one is the kernel's own. What is not listed cannot be called here; should it be possible after all,
/// whoever does is killed.
#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    Abi {
        arch: 0xc000_003e,
        makers: &[41, 53],
        socketcall: None,
        // x32, which has an ioctl of its own
        also: Some(0x4000_0000),
        ioctl: &[16, 514],
        setns: 308,
    },
    // i386
    Abi {
        arch: 0x4000_0003,
        makers: &[359, 360],
        socketcall: Some(102),
        also: None,
        ioctl: &[54],
        setns: 346,
    },
];
#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 2] = [
    Abi {
        arch: 0xc000_00b7,
        makers: &[198, 199],
        socketcall: None,
        also: None,
        ioctl: &[29],
        setns: 268,
    },
    // arm
    Abi {
        arch: 0x4000_0028,
        makers: &[281, 288],
        socketcall: Some(102),
        also: None,
        ioctl: &[54],
        setns: 375,
    },
];

/// `SYS_SOCKET` and `SYS_SOCKETPAIR` of `linux/net.h`.
const SOCKETCALL_MAKERS: [u64; 2] = [1, 8];

// Of linux/bpf_common.h and linux/filter.h.
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// The filter on families of sockets, ready to be installed.
#[derive(Debug)]
pub struct SocketFilter(Program);

/// The filter of a contained command, likewise.
#[derive(Debug)]
pub(super) struct OutsideFilter(Program);

#[derive(Debug)]
struct Program(Vec<Instruction>);

/// What is refused, by the number of the system call: with arguments as one of the rules has them, or whatever they are if there is
/// none.
type Refused = BTreeMap<i64, Vec<SeccompRule>>;

/// As the kernel has it; libc's own does not print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

impl SocketFilter {
    /// Put it together.
    ///
    /// # Errors
    /// On an architecture that it has no numbers for.
    pub fn compile() -> io::Result<Self> {
        Program::compile(unseen_sockets).map(Self)
    }

    /// Can the running kernel filter system calls and answer them with an error?
    pub fn is_possible() -> Option<bool> {
        let action: u32 = libc::SECCOMP_RET_ERRNO;
        // SAFETY: SECCOMP_GET_ACTION_AVAIL reads one number and changes nothing.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_GET_ACTION_AVAIL,
                0u32,
                &raw const action,
            )
        };
        match io::Error::last_os_error().raw_os_error() {
            _ if answer == 0 => Some(true),
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Some(false),
            _ => None,
        }
    }

    /// Install it for the calling thread and all that comes of it. Only async-signal-safe calls.
    pub(super) fn install(&self) -> io::Result<()> {
        self.0.install()
    }
}

impl OutsideFilter {
    /// Put it together.
    pub(super) fn compile() -> io::Result<Self> {
        Program::compile(ways_outside).map(Self)
    }

    /// Install it for the calling thread and all that comes of it. Only async-signal-safe calls.
    pub(super) fn install(&self) -> io::Result<()> {
        self.0.install()
    }
}

impl Program {
    fn compile(refused: fn(&Abi) -> Result<Refused, BackendError>) -> io::Result<Self> {
        let part = |abi| {
            let refused = refused(abi).map_err(|error| io::Error::other(error.to_string()))?;
            one(abi, refused)
        };
        let parts: Vec<_> = ABIS.iter().map(part).collect::<io::Result<_>>()?;
        let mut program = Vec::new();
        let last = parts.len() - 1;
        for (at, mut part) in parts.into_iter().enumerate() {
            if at != last {
                // Not called in this way: on to the next part, instead of the end of the process.
                part[KILL] = Instruction {
                    code: JUMP,
                    if_true: 0,
                    if_false: 0,
                    operand: u32::try_from(part.len() - KILL - 1).map_err(io::Error::other)?,
                };
            }
            program.append(&mut part);
        }
        Ok(Self(program))
    }

    fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.0.len()).unwrap_or(u16::MAX),
            // The kernel only reads.
            filter: self.0.as_ptr().cast_mut().cast(),
        };
        // SAFETY: the program's length and address belong together, an instruction is laid out as the kernel has it, and
        // it is copied before the call returns. The flag only keeps older kernels from slowing the process down.
        let done = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                &raw const program,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Where seccompiler compares the way of calling, and where it ends processes that call in another.
const COMPARE: usize = 1;
const KILL: usize = 2;

/// Numbers in all ways of calling that share one part.
fn with_also(abi: &Abi, numbers: &[i64]) -> Vec<i64> {
    let also = abi.also.into_iter();
    let also = also.flat_map(|more| numbers.iter().map(move |number| number + more));
    numbers.iter().copied().chain(also).collect()
}

/// Sockets that nothing would judge.
fn unseen_sockets(abi: &Abi) -> Result<Refused, BackendError> {
    let mut refused = Refused::new();
    let is_none_of_ours = FAMILIES
        .map(|family| compare(0, SeccompCmpOp::Ne, family.unsigned_abs().into()))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    for call in with_also(abi, abi.makers) {
        let rule = SeccompRule::new(is_none_of_ours.clone())?;
        refused.insert(call, vec![rule]);
    }
    if let Some(call) = abi.socketcall {
        let makes = SOCKETCALL_MAKERS
            .map(|makes| SeccompRule::new(vec![compare(0, SeccompCmpOp::Eq, makes)?]))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        refused.insert(call, makes);
    }
    for call in with_also(abi, &IO_URING) {
        refused.insert(call, Vec::new());
    }
    Ok(refused)
}

/// What takes effect outside.
fn ways_outside(abi: &Abi) -> Result<Refused, BackendError> {
    let mut refused = Refused::new();
    for call in with_also(abi, &[PIDFD_GETFD]) {
        refused.insert(call, Vec::new());
    }
    for call in with_also(abi, abi.ioctl) {
        let keys = KEYS
            .map(|request| SeccompRule::new(vec![compare(1, SeccompCmpOp::Eq, request)?]))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        refused.insert(call, keys);
    }
    for call in with_also(abi, &[abi.setns]) {
        // The way to those of other kinds leads through this one. Without a kind it is whatever the descriptor is of, and a process's
        // descriptor gives one of its user namespace (PIDFD_GET_USER_NAMESPACE, from 6.11 on).
        let users = compare(1, SeccompCmpOp::MaskedEq(CLONE_NEWUSER), CLONE_NEWUSER)?;
        let any = compare(1, SeccompCmpOp::Eq, 0)?;
        refused.insert(
            call,
            vec![SeccompRule::new(vec![users])?, SeccompRule::new(vec![any])?],
        );
    }
    Ok(refused)
}

/// The part of a filter for one way of calling.
fn one(abi: &Abi, refused: Refused) -> io::Result<Vec<Instruction>> {
    let failed = |error: BackendError| io::Error::other(error.to_string());
    let arch = TargetArch::try_from(ARCH).map_err(failed)?;
    let filter = SeccompFilter::new(
        refused,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        arch,
    );
    let program = filter.and_then(BpfProgram::try_from).map_err(failed)?;
    let mut program: Vec<_> = program
        .into_iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            if_true: instruction.jt,
            if_false: instruction.jf,
            operand: instruction.k,
        })
        .collect();
    // The library knows the kernel's own way of calling only; the part is the same for another.
    match program.get_mut(COMPARE..=KILL) {
        Some(
            [
                Instruction {
                    code: JUMP_IF_EQUAL,
                    if_true: 1,
                    if_false: 0,
                    operand,
                },
                Instruction { code: RETURN, .. },
            ],
        ) => *operand = abi.arch,
        _ => {
            return Err(io::Error::other(
                "the filter does not begin as it is known to",
            ));
        }
    }
    Ok(program)
}

/// Of an argument that the kernel reads 32 bits of.
fn compare(argument: u8, how: SeccompCmpOp, with: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, with)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::super::clone_child;
    use super::*;

    /// errno of a system call, 0 for success, in a process with the filter; where it was killed, minus its signal.
    fn filtered(number: libc::c_long, arguments: [libc::c_long; 3]) -> i32 {
        through(&SocketFilter::compile().unwrap().0, number, arguments)
    }

    fn through(filter: &Program, number: libc::c_long, arguments: [libc::c_long; 3]) -> i32 {
        let child = clone_child(None, 0, |_| {
            if filter.install().is_err() {
                // SAFETY: ends this process only.
                unsafe { libc::_exit(255) };
            }
            let [a, b, c] = arguments;
            // SAFETY: makes a descriptor, or fails; none of these calls touches this process's memory.
            let made = unsafe { libc::syscall(number, a, b, c) };
            let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
            // SAFETY: as above.
            unsafe { libc::_exit(if made < 0 { error } else { 0 }) };
        })
        .unwrap();
        let ended = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
        let ended = ended.unwrap().unwrap();
        ended
            .exit_status()
            .or(ended.terminating_signal().map(|signal| -signal))
            .unwrap()
    }

    fn need_root() {
        assert!(
            rustix::process::geteuid().is_root(),
            "without no_new_privs a filter needs root"
        );
    }

    #[test]
    fn families_that_are_judged_can_be_made_and_no_others() {
        need_root();
        let (stream, raw) = (libc::SOCK_STREAM.into(), libc::SOCK_RAW.into());
        let made = |family: i32, kind| filtered(libc::SYS_socket, [family.into(), kind, 0]);
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
            assert_eq!(made(family, stream), 0, "{family}");
        }
        assert_eq!(made(libc::AF_NETLINK, raw), 0);
        for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, 44, 0, 45] {
            assert_eq!(made(family, raw), libc::EPERM, "{family}");
        }
        // Only 32 bits of the family count for the kernel, and so for the filter.
        let high = i64::from(libc::AF_PACKET) | 1 << 40;
        assert_eq!(filtered(libc::SYS_socket, [high, raw, 0]), libc::EPERM);
        let high = i64::from(libc::AF_UNIX) | 1 << 40;
        assert_eq!(filtered(libc::SYS_socket, [high, stream, 0]), 0);
        assert_eq!(filtered(425, [1, 0, 0]), libc::EPERM, "io_uring_setup");
    }

    #[test]
    fn the_parts_are_one_program_whose_jumps_stay_within() {
        let Program(families) = SocketFilter::compile().unwrap().0;
        let Program(outside) = OutsideFilter::compile().unwrap().0;
        stays_within(&families);
        stays_within(&outside);
    }

    fn stays_within(program: &[Instruction]) {
        let returns = |at: usize| program.get(at).is_some();
        for (at, instruction) in program.iter().enumerate() {
            match instruction.code & 7 {
                JUMP if instruction.code == JUMP => {
                    assert!(returns(at + 1 + instruction.operand as usize), "{at}");
                }
                JUMP => {
                    assert!(returns(at + 1 + usize::from(instruction.if_true)), "{at}");
                    assert!(returns(at + 1 + usize::from(instruction.if_false)), "{at}");
                }
                _ => {}
            }
        }
        let ways: Vec<_> = program
            .iter()
            .filter(|instruction| instruction.code == JUMP_IF_EQUAL)
            .filter(|instruction| ABIS.iter().any(|abi| abi.arch == instruction.operand))
            .collect();
        assert_eq!(ways.len(), ABIS.len());
    }

    #[test]
    fn nothing_outside_is_taken_or_typed_for() {
        need_root();
        let filter = OutsideFilter::compile().unwrap().0;
        let asked = |number, arguments| through(&filter, number, arguments);
        // What is refused would not have come as far as this error of a descriptor that is none.
        let no = [-1, 0, 0];
        assert_eq!(asked(libc::SYS_pidfd_getfd, no), libc::EPERM);
        for request in KEYS {
            let keys = [-1, request.cast_signed(), 0];
            assert_eq!(asked(libc::SYS_ioctl, keys), libc::EPERM, "{request:#x}");
        }
        let size = [-1, 0x5413, 0];
        assert_eq!(asked(libc::SYS_ioctl, size), libc::EBADF);
        for kinds in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWUSER | libc::CLONE_NEWNET,
        ] {
            assert_eq!(asked(libc::SYS_setns, [-1, kinds.into(), 0]), libc::EPERM);
        }
        let net = [-1, libc::CLONE_NEWNET.into(), 0];
        assert_eq!(asked(libc::SYS_setns, net), libc::EBADF);
        // Of whichever kind: it may be one of users.
        assert_eq!(asked(libc::SYS_setns, [-1, 0, 0]), libc::EPERM);
    }

    /// The number with which x32 calls has no call behind it where the kernel lacks x32; with the filter it is
    /// refused before that is found out.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn x32_is_no_way_around() {
        need_root();
        let socket = 0x4000_0000 | libc::SYS_socket;
        let arguments = [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), 0];
        assert_eq!(filtered(socket, arguments), libc::EPERM);
    }

    /// Through the gate of 32-bit programs, which a 64-bit one may use as well.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_32_bit_program_makes_no_such_socket_either() {
        need_root();
        let gated = |number: u32, first: u32| {
            let filter = SocketFilter::compile().unwrap();
            let child = clone_child(None, 0, |_| {
                if filter.install().is_err() {
                    // SAFETY: ends this process only.
                    unsafe { libc::_exit(255) };
                }
                let answer: i32;
                // SAFETY: the gate takes numbers in registers; rbx, which the compiler keeps, is put back. Whatever is
                // called makes a socket or fails.
                unsafe {
                    std::arch::asm!(
                        "xchg {first:r}, rbx",
                        "int 0x80",
                        "xchg {first:r}, rbx",
                        first = inout(reg) u64::from(first) => _,
                        inlateout("eax") number => answer,
                        in("ecx") libc::SOCK_STREAM,
                        in("edx") 0,
                        out("r8") _, out("r9") _, out("r10") _, out("r11") _,
                    );
                };
                // SAFETY: as above.
                unsafe { libc::_exit(if answer < 0 { -answer } else { 0 }) };
            })
            .unwrap();
            let ended = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
            ended.unwrap().unwrap().exit_status()
        };
        const SOCKET: u32 = 359;
        const SOCKETCALL: u32 = 102;
        if gated(20, 0).is_none() {
            eprintln!("skipped: this kernel takes no calls of 32-bit programs");
            return;
        }
        assert_eq!(gated(SOCKET, libc::AF_INET as u32), Some(0));
        assert_eq!(gated(SOCKET, libc::AF_PACKET as u32), Some(libc::EPERM));
        assert_eq!(gated(SOCKETCALL, 1), Some(libc::EPERM));
        // Another one of its calls comes as far as its arguments, which are nowhere.
        assert_eq!(gated(SOCKETCALL, 3), Some(libc::EFAULT));
    }
}
