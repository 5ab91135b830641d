//! Programs at the end of system calls, by name: events of perf's.
//!
//! By which number the kernel knows a call's event stands in tracefs, which need not be mounted anywhere: it is looked at
//! without being mounted.

use std::io;
use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};

use libbpf_rs::{Link, ProgramMut};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// `PERF_TYPE_TRACEPOINT`.
const TRACEPOINT: u64 = 2;
/// `PERF_ATTR_SIZE_VER0`: the fields that the first kernels knew.
const ATTRIBUTES: usize = 64;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOSE_ON_EXEC: u64 = 8;

/// Attach a program of `SEC("tracepoint/syscalls/...")`.
pub(super) fn attach(program: &ProgramMut<'_>) -> Result<Link, libbpf_rs::Error> {
    let section = program.section().to_string_lossy().into_owned();
    let event = section.strip_prefix("tracepoint/").unwrap_or(&section);
    let opened = number(event).and_then(open)?;
    // From here on the link's.
    program.attach_perf_event(opened.into_raw_fd())
}

/// The kernel's number for an event.
fn number(event: &str) -> io::Result<u64> {
    let path = format!("events/{event}/id");
    let unmounted = || {
        let file_system = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&file_system)?;
        fsmount(
            &file_system,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
    };
    let opened = match unmounted() {
        Ok(root) => openat(root, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()),
        Err(error) => Err(error),
    };
    let mounted = format!("/sys/kernel/tracing/{path}");
    let file = opened.or_else(|_| {
        openat(
            CWD,
            &mounted,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    })?;
    let mut text = [0; 24];
    let length = rustix::io::read(file, &mut text)?;
    let text = String::from_utf8_lossy(&text[..length]);
    let number = text.trim().parse();
    number.map_err(|_| io::Error::from(Errno::NODATA))
}

/// An event of every process, whose programs run on all processors.
fn open(number: u64) -> io::Result<OwnedFd> {
    // struct perf_event_attr: type and size in one word, then the event; nothing is counted, so the rest is zero.
    let mut attributes = [0u64; ATTRIBUTES / 8];
    attributes[0] = if cfg!(target_endian = "little") {
        TRACEPOINT | (ATTRIBUTES as u64) << 32
    } else {
        TRACEPOINT << 32 | ATTRIBUTES as u64
    };
    attributes[1] = number;
    // SAFETY: the attributes are live and of the size that they tell; the rest are plain numbers: every process (-1), one
    // processor, no group (-1).
    let opened = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1,
            0,
            -1,
            CLOSE_ON_EXEC,
        )
    };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    let opened = i32::try_from(opened).map_err(io::Error::other)?;
    // SAFETY: the call succeeded, so this is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}
