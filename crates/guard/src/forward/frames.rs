//! DNS messages in a stream of octets: each behind its length (RFC 1035, 4.2.2; RFC 7766). One may come in any number
//! of pieces, and any number of them in one piece.

use std::collections::VecDeque;

/// What is read at once, at most.
pub(super) const PIECE: usize = 16 << 10;

/// A stream as it comes in.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    octets: VecDeque<u8>,
}

impl Incoming {
    /// More of it.
    pub(super) fn add(&mut self, piece: &[u8]) {
        self.octets.extend(piece);
    }

    /// The next message, once it is whole.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let length = match (self.octets.front(), self.octets.get(1)) {
            (Some(&high), Some(&low)) => usize::from(u16::from_be_bytes([high, low])),
            _ => return None,
        };
        if self.octets.len() < 2 + length {
            return None;
        }
        self.octets.drain(..2);
        Some(self.octets.drain(..length).collect())
    }
}

/// A stream as it goes out.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    octets: VecDeque<u8>,
}

impl Outgoing {
    /// Send a message. What is too long for a stream is none that ever came out of one.
    pub(super) fn put(&mut self, message: &[u8]) {
        let Ok(length) = u16::try_from(message.len()) else {
            return;
        };
        self.octets.extend(length.to_be_bytes());
        self.octets.extend(message);
    }

    /// Octets that wait.
    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// What is to be sent next.
    pub(super) fn front(&self) -> &[u8] {
        self.octets.as_slices().0
    }

    /// So much of it was.
    pub(super) fn sent(&mut self, octets: usize) {
        self.octets.drain(..octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let messages: [&[u8]; 4] = [b"first", b"", &[7; 3000], b"x"];
        let mut stream = Outgoing::default();
        for message in messages {
            stream.put(message);
        }
        let mut octets = Vec::new();
        while !stream.is_empty() {
            let front = stream.front().to_vec();
            octets.extend(&front);
            stream.sent(front.len());
        }
        for size in [1, 2, 3, 7, 1000, octets.len()] {
            let mut incoming = Incoming::default();
            let mut got = Vec::new();
            for piece in octets.chunks(size) {
                incoming.add(piece);
                while let Some(message) = incoming.next() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages, "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_that_is_not_whole_waits() {
        let mut incoming = Incoming::default();
        for octet in [0, 2, b'a'] {
            assert_eq!(incoming.next(), None);
            incoming.add(&[octet]);
        }
        assert_eq!(incoming.next(), None);
        incoming.add(b"bc");
        assert_eq!(incoming.next(), Some(b"ab".to_vec()));
        assert_eq!(incoming.next(), None);
    }

    #[test]
    fn the_longest_message_passes_and_a_longer_one_does_not() {
        let mut stream = Outgoing::default();
        stream.put(&vec![0; 65_535]);
        assert_eq!(stream.len(), 65_537);
        stream.put(&vec![0; 65_536]);
        assert_eq!(stream.len(), 65_537);
    }
}
