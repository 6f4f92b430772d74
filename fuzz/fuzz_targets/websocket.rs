//! The request for a WebSocket and its frames, on any bytes: the first says where the rest is cut in two. How it is cut
//! makes no difference, and what is taken out of frames is never more than went in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirmq::net::frames::{Decoder, Violation};
use weirmq::net::upgrade;

/// What the frames carry, decoded piece by piece.
fn carried(pieces: &[&[u8]]) -> (Vec<u8>, Result<(), Violation>) {
    let (mut decoder, mut bytes) = (Decoder::default(), Vec::new());
    for piece in pieces {
        let from = bytes.len();
        bytes.extend_from_slice(piece);
        if let Err(violation) = decoder.decode(&mut bytes, from) {
            return (bytes, Err(violation));
        }
    }
    (bytes, Ok(()))
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = carried(&[bytes]);
    assert_eq!(whole, carried(&[first, second]));
    assert!(whole.0.len() <= bytes.len());
    let origins = ["https://app.example".to_owned()];
    for origins in [None, Some(&origins[..])] {
        let judged = upgrade::judge(bytes, 0, origins);
        if let Ok(Some(accepted)) = &judged {
            assert!(accepted.size <= upgrade::MAX_REQUEST);
            if first.len() < accepted.size {
                assert_eq!(upgrade::judge(first, 0, origins), Ok(None));
            }
        }
        if bytes.len() >= upgrade::MAX_REQUEST {
            assert_ne!(judged, Ok(None));
        }
    }
});
