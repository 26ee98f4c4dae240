//! The law for heads of responses: no panic, and the end is found at every cut of the bytes. The framing is that of a slow and
//! simple parser after RFC 9112, section 6.3.

use crate::head::{Framing, HeadError, MAX_BYTES, MAX_FIELDS, end_of_head, parse};

/// Checks one input: the first byte selects HEAD or GET, the rest are the bytes of a server.
pub fn check(input: &[u8]) {
    let Some((first, bytes)) = input.split_first() else { return };
    let head_only = *first == b'H';
    let whole = end_of_head(bytes, &mut 0);
    for step in [1, 3, 7] {
        assert_eq!(in_steps(bytes, step), whole, "in steps of {step}");
    }
    let Ok(Some(end)) = whole else { return };
    assert!(end <= bytes.len() && end <= MAX_BYTES);
    let head = &bytes[..end];
    assert!(head.ends_with(b"\n\n") || head.ends_with(b"\n\r\n"));
    let parsed = parse(head, head_only);
    assert_ne!(parsed, Err(HeadError::Incomplete), "a head that ends is complete");
    let Ok(Some((parsed, persistent))) = parsed else { return };
    assert!(parsed.headers.len() <= MAX_FIELDS);
    assert_eq!(parsed.framing, plainly(head, head_only, parsed.status.as_u16()), "{}", head.escape_ascii());
    assert!(!(persistent && parsed.framing == Framing::UntilClose));
    // The head for awc has this framing too.
    let (again, _) = parse(&parsed.framing.as_head(), false).expect("a good head").expect("a final one");
    assert_eq!(again.framing, parsed.framing);
}

/// The end of the head, searched while the bytes arrive. An error may come earlier than with all bytes, but not another end.
fn in_steps(bytes: &[u8], step: usize) -> Result<Option<usize>, HeadError> {
    let mut searched = 0;
    let mut at = 0;
    loop {
        at = bytes.len().min(at + step);
        match end_of_head(&bytes[..at], &mut searched) {
            Ok(None) if at < bytes.len() => {}
            end => return end,
        }
    }
}

/// The framing of a head that was accepted, without the parser.
fn plainly(head: &[u8], head_only: bool, status: u16) -> Framing {
    if head_only || matches!(status, 101 | 204 | 304) {
        return Framing::Length(0);
    }
    let text: String = head.iter().map(|byte| char::from(*byte)).collect::<String>().to_ascii_lowercase();
    let values = |name: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(found, _)| *found == name);
        lines
            .flat_map(|(_, value)| value.split(','))
            .map(|value| value.trim_matches([' ', '\t', '\r']).to_owned())
            .collect()
    };
    match (values("transfer-encoding").as_slice(), values("content-length").as_slice()) {
        ([coding], _) if coding == "chunked" => Framing::Chunked,
        ([coding], _) if coding == "identity" => Framing::UntilClose,
        ([], []) => Framing::UntilClose,
        ([], [length, others @ ..]) => {
            assert!(others.iter().all(|other| other == length), "{text}");
            Framing::Length(length.parse().expect("a number"))
        }
        (codings, _) => panic!("{codings:?} is no coding to accept"),
    }
}
