//! The DNS message that ends a denied lookup.

use blackstart_kernel::AnswerWanted;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// Extended DNS Errors (RFC 8914): the option's code, and "Blocked".
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: u16 = 15;

/// Longest explanation. The whole stays below 512 bytes, which every client takes.
const TEXT_MAX: usize = 160;

/// What the server says it would take, as recommended to avoid fragments.
const PAYLOAD: u16 = 1232;

const RECURSION_DESIRED: u16 = 0x0100;
const CHECKING_DISABLED: u16 = 0x0010;

/// NXDOMAIN for the question, in the case in which it was asked; with the rule that denies it as an extended error if
/// the asker can read one. None for a question that is no name.
pub(crate) fn refusal(wanted: &AnswerWanted, rule: &str) -> Option<Vec<u8>> {
    let name = Name::read(&mut BinDecoder::new(&wanted.question)).ok()?;
    let mut query = Query::query(name, RecordType::from(wanted.qtype));
    query.set_query_class(DNSClass::from(wanted.qclass));
    let mut message = Message::new(wanted.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = wanted.flags & RECURSION_DESIRED != 0;
    message.metadata.checking_disabled = wanted.flags & CHECKING_DISABLED != 0;
    message.metadata.recursion_available = true;
    message.metadata.response_code = ResponseCode::NXDomain;
    message.add_query(query);
    if wanted.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        let text = format!("blocked by blackstart: {rule}");
        let value = [&BLOCKED.to_be_bytes(), cut(&text).as_bytes()].concat();
        edns.options_mut()
            .insert(EdnsOption::Unknown(EXTENDED_ERROR, value));
        message.set_edns(edns);
    }
    message.to_vec().ok()
}

/// At most [`TEXT_MAX`] bytes, ending with a whole character.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::opt::EdnsCode;

    fn wanted(edns: bool) -> AnswerWanted {
        AnswerWanted {
            tgid: 1,
            id: 0xbeef,
            flags: RECURSION_DESIRED | CHECKING_DISABLED,
            question: b"\x03wWw\x06GitHub\x03com\x00".to_vec(),
            qtype: 28,
            qclass: 1,
            edns,
            client: "10.0.0.1:4000".parse().unwrap(),
            server: "10.0.0.53:53".parse().unwrap(),
        }
    }

    #[test]
    fn it_echoes_the_question_and_says_why() {
        let bytes = refusal(&wanted(true), "deny .github.com").unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        let meta = &message.metadata;
        assert_eq!(
            (meta.id, meta.message_type, meta.response_code),
            (0xbeef, MessageType::Response, ResponseCode::NXDomain)
        );
        assert!(
            meta.recursion_desired
                && meta.checking_disabled
                && meta.recursion_available
                && !meta.truncation
        );
        assert_eq!(message.queries.len(), 1);
        assert_eq!(message.queries[0].query_type(), RecordType::AAAA);
        // Byte for byte, since clients with 0x20 compare case.
        assert!(bytes[12..].starts_with(b"\x03wWw\x06GitHub\x03com\x00"));
        assert!(message.answers.is_empty() && message.authorities.is_empty());
        let option = message
            .edns
            .as_ref()
            .unwrap()
            .option(EdnsCode::Unknown(15))
            .unwrap();
        let value = [
            &[0, 15],
            b"blocked by blackstart: deny .github.com".as_slice(),
        ]
        .concat();
        assert_eq!(option, &EdnsOption::Unknown(15, value));
    }

    #[test]
    fn without_edns_there_is_no_opt_record() {
        let message = Message::from_vec(&refusal(&wanted(false), "x").unwrap()).unwrap();
        assert!(message.edns.is_none() && message.additionals.is_empty());
    }

    #[test]
    fn it_stays_small_and_never_panics() {
        let mut long = wanted(true);
        long.question = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(3);
        long.question.extend_from_slice(
            b"\x3daaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00",
        );
        assert!(refusal(&long, &"ü".repeat(500)).unwrap().len() <= 512);
        for junk in [&b""[..], b"\x05ab", b"\xc0\x00", b"\x40aaaa"] {
            long.question = junk.to_vec();
            assert_eq!(refusal(&long, "x"), None, "{junk:?}");
        }
    }
}
