//! Memory of this process that is not wanted any more.

#[cfg(target_env = "gnu")]
use std::mem::MaybeUninit;

/// Have what this thread needed once and needs no more given back: what the allocator holds and nobody uses, the part of the
/// thread's stack that only loading reached, and what of the binary's constants only a start reads. Hundreds of guards in one
/// process make tens of megabytes of it. Takes a millisecond.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: takes a number, and may be called at any time by any thread.
        unsafe { libc::malloc_trim(0) };
        give_back_stack();
        give_back_constants();
    }
}

/// Have all threads of this process allocate from one place: with one for each processor and more, what each of hundreds of guards has
/// let go of lies scattered among what others keep. To be called before there are others.
pub fn keep_memory_together() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes plain numbers, and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Frames that may still come to lie below this one, with room to spare.
#[cfg(target_env = "gnu")]
const STACK_IN_USE: usize = 16 << 10;

#[cfg(target_env = "gnu")]
fn give_back_stack() {
    let here = 0u8;
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: takes nothing.
    let own = unsafe { libc::pthread_self() };
    // SAFETY: of this thread, into memory for it.
    if unsafe { libc::pthread_getattr_np(own, attributes.as_mut_ptr()) } != 0 {
        return;
    }
    let (mut lowest, mut size, mut guard) = (std::ptr::null_mut(), 0, 0);
    // SAFETY: written by the call above, which succeeded; the others are places of this frame.
    let got =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut lowest, &raw mut size) };
    // SAFETY: as above.
    let guarded = unsafe { libc::pthread_attr_getguardsize(attributes.as_ptr(), &raw mut guard) };
    // SAFETY: as above; not used any more.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    let page = rustix::param::page_size();
    let lowest = (lowest as usize).next_multiple_of(page) + guard;
    let used = (&raw const here as usize).saturating_sub(STACK_IN_USE) / page * page;
    // The first thread's grows as it is used, and its size is only a limit.
    if got != 0 || guarded != 0 || size > 64 << 20 || used <= lowest {
        return;
    }
    // SAFETY: of this thread's own stack, from behind its guard up to well below this frame: nobody has anything there, and
    // who comes there later finds zeros.
    let _ = unsafe {
        rustix::mm::madvise(
            lowest as *mut _,
            used - lowest,
            rustix::mm::Advice::LinuxDontNeed,
        )
    };
}

/// A start reads the relocations and the object with the programs, four megabytes of the binary's file. They stay in the page cache
/// and come back when they are read again.
#[cfg(target_env = "gnu")]
fn give_back_constants() {
    unsafe extern "C" fn of_program(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        _data: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: valid for the time of this call (dl_iterate_phdr(3)).
        let info = unsafe { &*info };
        // SAFETY: as above; so many headers lie there as long as the program is loaded.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let page = rustix::param::page_size();
        for header in headers {
            // Only read: what was written to would be lost, and code is what runs here.
            if header.p_type != libc::PT_LOAD || header.p_flags != libc::PF_R {
                continue;
            }
            let start = info.dlpi_addr as usize + header.p_vaddr as usize;
            let end = (start + header.p_filesz as usize) / page * page;
            let start = start.next_multiple_of(page);
            if end <= start {
                continue;
            }
            // SAFETY: whole pages of a mapping of the program's own file that nobody writes to: who reads them again reads the same.
            let _ = unsafe {
                rustix::mm::madvise(
                    start as *mut _,
                    end - start,
                    rustix::mm::Advice::LinuxDontNeed,
                )
            };
        }
        // The first is the program itself; the libraries of a build that has some are left alone.
        1
    }
    // SAFETY: the function has the type that is asked for, and is given nothing.
    unsafe { libc::dl_iterate_phdr(Some(of_program), std::ptr::null_mut()) };
}
