//! The generated side of `bpf/abi.h`, and the one place where its structs become octets and back.

#[expect(
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated from the object's BTF"
)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/blackstart.skel.rs"));
}

/// Those that guards share.
#[expect(
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated from the object's BTF"
)]
mod shared {
    include!(concat!(env!("OUT_DIR"), "/tracer.skel.rs"));
}

pub(crate) use shared::TracerSkelBuilder;
pub(crate) use skeleton::types::*;
pub(crate) use skeleton::{BlackstartSkel, BlackstartSkelBuilder, OpenBlackstartSkel};

/// A struct of `abi.h`: plain widths, no implicit padding (`abi.h` asserts its size), valid for any octets.
///
/// # Safety
/// Only for `#[repr(C)]` types without padding whose fields take any bit pattern.
pub(crate) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {
        $(
            // SAFETY: generated from abi.h, whose rules say so: explicit padding, plain widths.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(
    u8,
    u16,
    u32,
    u64,
    bs_state,
    bs_edge,
    bs_class,
    bs_prefix_key,
    bs_port_key,
    bs_choice,
    bs_policy,
    bs_search,
    bs_spared,
    bs_shared,
    bs_refill,
    bs_address,
    bs_name,
    bs_lease,
    bs_lease_slot,
    bs_answer_key,
    bs_answer,
    bs_query_key,
    bs_query,
    bs_flow_key,
    bs_flow,
    bs_overflow_key,
    bs_forward,
    bs_forwarded_key,
    bs_seat,
    bs_part,
    bs_socket,
    bs_subject,
    bs_argv_rest,
    bs_process,
    bs_leaver_key,
    bs_made_key,
    bs_delegate_key,
    bs_counters,
    bs_event,
    bs_lookup_event,
);

/// The octets of a value, as the kernel wants them.
pub(crate) fn octets<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: T is Plain, so all its octets are initialised; the slice lives as long as the borrow.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// A value from the kernel's octets; `None` where their number is wrong (a pin of another layout).
pub(crate) fn value<T: Plain>(octets: &[u8]) -> Option<T> {
    if octets.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough, any octets are a valid T, and the read does not assume alignment.
    Some(unsafe { octets.as_ptr().cast::<T>().read_unaligned() })
}

/// A zeroed struct of `abi.h`: "nothing known", by its conventions.
pub(crate) fn zeroed<T: Plain>() -> T {
    // SAFETY: any octets are a valid T.
    unsafe { std::mem::zeroed() }
}
