//! How much there is to verify. The kernel gives up at a million instructions, and a newer one may look at more paths than
//! this one: so there is room left.

use std::fs;

use super::wire::Wire;

/// Looked at by the verifier for one program, at most; the matrix holds other kernels to the same.
const MOST: u64 = 250_000;

#[test]
fn no_program_is_near_the_verifier_s_limit() {
    let everything = "default: deny\nlease: ttl\nrules:\n  - allow: allowed.example\n  - deny: 203.0.113.0/24\n  \
        - deny: unix:/run/denied.sock\n  - { deny: other.example, process: curl, on_match: blackhole }\n";
    let _wire = Wire::enforce(everything);
    // The other tests of this process hold programs as well: they are ours, too.
    let mut verified = Vec::new();
    for held in fs::read_dir("/proc/self/fdinfo").unwrap().flatten() {
        let described = fs::read_to_string(held.path()).unwrap_or_default();
        let count = described
            .lines()
            .find_map(|line| line.strip_prefix("verified_insns:"));
        verified.extend(count.map(|count| count.trim().parse::<u64>().unwrap()));
    }
    assert!(verified.len() >= 7, "programs that are held: {verified:?}");
    let largest = verified.iter().max().unwrap();
    assert!(
        *largest <= MOST,
        "the largest program comes to {largest} instructions"
    );
}
