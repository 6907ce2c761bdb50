//! Where text may be cut: never inside a character.

/// How many bytes at the end of `bytes` are the beginning of a UTF-8 character that is not yet whole: 0 to 3.
///
/// Bytes that can never become a character are not held back (RFC 3629, Unicode 3.9 table 3-7).
pub fn incomplete_tail(bytes: &[u8]) -> usize {
    const CONTINUATION: u8 = 0b1000_0000;
    const MASK: u8 = 0b1100_0000;
    let lead = bytes.iter().rev().take(3).position(|byte| byte & MASK != CONTINUATION);
    let Some(length) = lead.map(|back| back + 1) else { return 0 };
    let tail = bytes.get(bytes.len() - length..).unwrap_or_default();
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => length,
        Ok(_) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_that_can_never_be_text_are_not_held_back() {
        let hopeless: [&[u8]; 6] = [b"\x80", b"\xff", b"\xc0", b"\xe0\x80", b"\xed\xa0", b"\xf4\x90"];
        for bytes in hopeless {
            assert_eq!(incomplete_tail(bytes), 0, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn a_cut_anywhere_leaves_text_on_its_left(text in "\\PC{1,20}", cut in any::<prop::sample::Index>()) {
            let bytes = text.as_bytes();
            let cut = cut.index(bytes.len() + 1);
            let held = incomplete_tail(&bytes[..cut]);
            prop_assert!(held <= 3);
            prop_assert!(std::str::from_utf8(&bytes[..cut - held]).is_ok());
            prop_assert_eq!(held == 0, text.is_char_boundary(cut));
        }
    }
}
