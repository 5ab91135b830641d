//! What a run reached for, as it lies in the history: the numbers of words, programs and destinations, packed.
//!
//! A policy is held against thousands of runs, each of which has hundreds of attempts. As rows of tables these fill pages of
//! their own, and each page is a place on the disk; packed, those of a usual run are a part of one.
//!
//! A part is a list of heads (one in a run's last part, none in others), one of lookups, one of flows and one of contacts,
//! column by column: how many, then for each column the difference of each value to the one above it, in as few bytes as it
//! needs (LEB128 of its zigzag form), and the run's id at the end; all of it deflated. Most columns hardly change from row
//! to row.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// A part is written when it has so many rows: no run is in memory as a whole.
pub(crate) const ROWS: usize = 4096;
/// A damaged part may unpack to anything.
const LARGEST: u64 = 4 << 20;

/// What a policy is held against besides: service (0 is none), host, start, whether it is a drill, whether it was attached,
/// what lacks, surroundings.
pub(crate) type Head = [i64; 7];
/// A lookup: name, type, program, subject, verdict, rule, queries, first and last time, answer. Subjects are one more than
/// they are, and 0 is none; times count from the run's start.
pub(crate) type LookupRow = [i64; 10];
/// A flow: destination, program, subject, verdict, rule, attempts, first and last time, attribution, whether it is a probe.
pub(crate) type FlowRow = [i64; 10];
/// A contact: path, program, subject, verdict, rule, attempts.
pub(crate) type ContactRow = [i64; 6];

/// A part of what a run reached for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Attempts {
    pub(crate) head: Option<(Head, String)>,
    pub(crate) lookups: Vec<LookupRow>,
    pub(crate) flows: Vec<FlowRow>,
    pub(crate) contacts: Vec<ContactRow>,
}

impl Attempts {
    pub(crate) fn rows(&self) -> usize {
        self.lookups.len() + self.flows.len() + self.contacts.len()
    }

    /// With the part that follows.
    pub(crate) fn append(&mut self, mut part: Self) {
        self.lookups.append(&mut part.lookups);
        self.flows.append(&mut part.flows);
        self.contacts.append(&mut part.contacts);
        self.head = part.head.or(self.head.take());
    }

    /// As bytes.
    pub(crate) fn packed(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        let head: Vec<Head> = self.head.iter().map(|(head, _)| *head).collect();
        put(&mut plain, &head);
        put(&mut plain, &self.lookups);
        put(&mut plain, &self.flows);
        put(&mut plain, &self.contacts);
        if let Some((_, id)) = &self.head {
            plain.extend_from_slice(id.as_bytes());
        }
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        // A vector takes everything.
        let _written = packed.write_all(&plain);
        packed.finish().unwrap_or_default()
    }

    /// Out of bytes; none, if they make no sense.
    pub(crate) fn unpacked(packed: &[u8]) -> Option<Self> {
        let mut plain = Vec::new();
        DeflateDecoder::new(packed)
            .take(LARGEST)
            .read_to_end(&mut plain)
            .ok()?;
        let mut rest = plain.as_slice();
        let heads: Vec<Head> = get(&mut rest)?;
        let mut found = Self {
            head: None,
            lookups: get(&mut rest)?,
            flows: get(&mut rest)?,
            contacts: get(&mut rest)?,
        };
        match heads[..] {
            [] => rest.is_empty().then_some(found),
            [head] => {
                found.head = Some((head, std::str::from_utf8(rest).ok()?.to_owned()));
                Some(found)
            }
            _ => None,
        }
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, rows: &[[i64; N]]) {
    put_number(out, rows.len() as u64);
    for column in 0..N {
        let mut above = 0i64;
        for row in rows {
            let step = row[column].wrapping_sub(above);
            put_number(out, ((step << 1) ^ (step >> 63)).cast_unsigned());
            above = row[column];
        }
    }
}

fn get<const N: usize>(from: &mut &[u8]) -> Option<Vec<[i64; N]>> {
    let count = usize::try_from(get_number(from)?).ok()?;
    // Each value takes a byte at least.
    if count.checked_mul(N)? > from.len() {
        return None;
    }
    let mut rows = vec![[0; N]; count];
    for column in 0..N {
        let mut above = 0i64;
        for row in &mut rows {
            let zigzag = get_number(from)?;
            let step = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
            above = above.wrapping_add(step);
            row[column] = above;
        }
    }
    Some(rows)
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn get_number(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit.
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows<const N: usize>() -> impl Strategy<Value = Vec<[i64; N]>> {
        let value = prop_oneof![0..100i64, any::<i64>(), Just(i64::MIN), Just(i64::MAX)];
        prop::collection::vec(prop::array::uniform::<_, N>(value), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(
            head in prop::option::of((prop::array::uniform7(any::<i64>()), ".*")),
            lookups in rows::<10>(), flows in rows::<10>(), contacts in rows::<6>()
        ) {
            let attempts = Attempts { head, lookups, flows, contacts };
            prop_assert_eq!(Attempts::unpacked(&attempts.packed()), Some(attempts));
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_and_nothing_else(
            flows in rows::<10>(), at in any::<prop::sample::Index>(), bits in 1u8..
        ) {
            let mut packed = Attempts { flows, ..Attempts::default() }.packed();
            let at = at.index(packed.len());
            packed[at] ^= bits;
            Attempts::unpacked(&packed);
            Attempts::unpacked(&packed[..at]);
        }
    }

    #[test]
    fn a_count_that_cannot_be_is_refused_before_there_is_room_for_it() {
        let mut packed = DeflateEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap();
        assert_eq!(Attempts::unpacked(&packed.finish().unwrap()), None);
        assert_eq!(Attempts::unpacked(&[]), None);
        assert_eq!(get_number(&mut [0xff; 10].as_slice()), None);
    }

    #[test]
    fn a_part_of_a_usual_run_is_a_fraction_of_a_page() {
        let row = |n: i64| {
            [
                1000 + n / 2,
                7,
                12 + n % 5,
                1 + n % 30,
                0,
                3,
                1,
                n * 10_000,
                n * 10_000,
                5000 + n,
            ]
        };
        let attempts = Attempts {
            lookups: (0..120).map(row).collect(),
            flows: (0..100).map(row).collect(),
            ..Attempts::default()
        };
        assert!(
            attempts.packed().len() < 1300,
            "{}",
            attempts.packed().len()
        );
    }
}
