//! A UDP datagram with its IP header, made by hand: it bears the address of a server that never sent it.

use std::net::{IpAddr, SocketAddr};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const HOPS: u8 = 64;

/// `payload` in UDP in IP. None if the two ends are not of one family, or it is too long.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let (from, to) = super::on_the_wire(from, to)?;
    let length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let mut udp = Vec::with_capacity(usize::from(length));
    udp.extend_from_slice(&from.port().to_be_bytes());
    udp.extend_from_slice(&to.port().to_be_bytes());
    udp.extend_from_slice(&length.to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(payload);

    let (mut packet, addresses) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length.checked_add(20)?;
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&total.to_be_bytes());
            // No identification; not to be fragmented.
            header.extend_from_slice(&[0, 0, 0x40, 0, HOPS, UDP, 0, 0]);
            let addresses = [from.octets(), to.octets()].concat();
            header.extend_from_slice(&addresses);
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            (header, addresses)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[UDP, HOPS]);
            let addresses = [from.octets(), to.octets()].concat();
            header.extend_from_slice(&addresses);
            (header, addresses)
        }
        _ => return None,
    };
    // The pseudo header of both families sums up to the same: addresses, protocol, length.
    let [high, low] = length.to_be_bytes();
    let sum = match checksum(&[&addresses, &[0, UDP, high, low], &udp]) {
        // Zero on the wire means "no checksum"; all ones are equal to it in this arithmetic.
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    packet.append(&mut udp);
    Some(packet)
}

/// The Internet checksum of parts, each of which but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded: it fits.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver's check: the sum over everything, checksum included, is all ones, so its complement zero.
    fn holds(packet: &[u8]) -> bool {
        let (addresses, udp) = match packet[0] >> 4 {
            4 => (&packet[12..20], &packet[20..]),
            _ => (&packet[8..40], &packet[40..]),
        };
        let header_holds = packet[0] >> 4 == 6 || checksum(&[&packet[..20]]) == 0;
        header_holds && checksum(&[addresses, &[0, UDP], &udp[4..6], udp]) == 0
    }

    #[test]
    fn a_known_ipv4_header_comes_out() {
        let packet = datagram(
            "192.0.2.53:53".parse().unwrap(),
            "192.0.2.1:40000".parse().unwrap(),
            b"abc",
        )
        .unwrap();
        assert_eq!(packet.len(), 31);
        assert_eq!(packet[..10], [0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17]);
        // Worked out by hand: 4500+001f+4000+4011+c000+0235+c000+0201 = 2_4966 → 4968 → b697.
        assert_eq!(packet[10..12], [0xb6, 0x97]);
        assert_eq!(packet[20..26], [0, 53, 0x9c, 0x40, 0, 11]);
        assert!(holds(&packet));
    }

    #[test]
    fn both_families_and_odd_lengths_hold() {
        for (from, to) in [
            ("10.0.0.53:53", "10.0.0.1:1"),
            ("[fd00::53]:53", "[fd00::1]:65535"),
            ("[::ffff:10.0.0.53]:53", "10.0.0.1:7"),
        ] {
            for length in [0, 1, 12, 311, 512] {
                let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
                let packet =
                    datagram(from.parse().unwrap(), to.parse().unwrap(), &payload).unwrap();
                assert!(holds(&packet), "{from} {length}");
                assert!(packet.ends_with(&payload));
                let mut broken = packet.clone();
                broken[27] ^= 1;
                assert!(
                    !holds(&broken) || packet[0] >> 4 == 6 && length == 0,
                    "{from} {length}"
                );
            }
        }
        assert_eq!(
            datagram(
                "10.0.0.53:53".parse().unwrap(),
                "[::1]:7".parse().unwrap(),
                b""
            ),
            None
        );
    }

    #[test]
    fn a_sum_of_zero_is_sent_as_ones() {
        // A payload that makes the sum come out as zero: the complement of the sum without it.
        let (from, to) = (
            "10.0.0.53:53".parse().unwrap(),
            "10.0.0.1:7".parse().unwrap(),
        );
        let packet = datagram(from, to, &[0, 0]).unwrap();
        let packet = datagram(from, to, &packet[26..28]).unwrap();
        assert_eq!(packet[26..28], [0xff, 0xff]);
    }
}
