//! What the request for a WebSocket and the answer to it have in common: where they end, their headers, the proof that the
//! key was understood. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::Header;
use ring::digest;

/// The most headers.
pub(super) const MAX_HEADERS: usize = 64;

/// What they end with.
pub(super) const END: &[u8] = b"\r\n\r\n";

/// What the answer to the client's key is made with.
const SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The size of what `bytes` begin with, up to its end, if that is there; it was not in the first `seen` of them.
pub(super) fn size(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(END.len() - 1).min(bytes.len());
    let end = bytes[from..].windows(END.len()).position(|bytes| bytes == END)?;
    Some(from + end + END.len())
}

/// What proves that the key was understood.
pub(super) fn accept(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(SUFFIX);
    STANDARD.encode(context.finish())
}

/// The values of a header, without the blanks around them; one that is not text is empty.
pub(super) fn values<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| str::from_utf8(header.value).unwrap_or_default().trim())
}

/// The elements of a header that is a list.
pub(super) fn tokens<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a str> {
    values(headers, name).flat_map(|value| value.split(',')).map(str::trim)
}

/// The value of a header that is there once.
pub(super) fn only<'a>(headers: &'a [Header<'a>], name: &'a str) -> Option<&'a str> {
    let mut values = values(headers, name);
    values.next().filter(|value| !value.is_empty() && values.next().is_none())
}
