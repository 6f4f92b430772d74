//! A range of IP addresses, as `10.0.0.0/8` writes it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The bits in front of an IPv4 address in the form that IPv6 has for it.
const MAPPED: u32 = 96;

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    /// How many leading bits they share.
    prefix: u32,
}

impl Network {
    /// Whether an address is one of these. An IPv4 address may come in the form that IPv6 has for it.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (base.to_bits() ^ address.to_bits()).leading_zeros() >= self.prefix
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                (base.to_bits() ^ address.to_bits()).leading_zeros() >= self.prefix
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    /// An address alone is a network of one. Bits behind the prefix are a mistake: was the address meant, or the network?
    fn from_str(text: &str) -> Result<Network, ()> {
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let base: IpAddr = address.parse().map_err(|_| ())?;
        let (width, trailing) = match base {
            IpAddr::V4(base) => (32, base.to_bits().trailing_zeros()),
            IpAddr::V6(base) => (128, base.to_bits().trailing_zeros()),
        };
        let prefix = match prefix {
            None => width,
            Some(len) if len.bytes().all(|byte| byte.is_ascii_digit()) => len.parse().map_err(|_| ())?,
            Some(_) => return Err(()),
        };
        if prefix > width || trailing < width - prefix {
            return Err(());
        }
        // Addresses are asked about in the form of IPv4 where they have one.
        match base {
            IpAddr::V6(v6) if prefix >= MAPPED && v6.to_ipv4_mapped().is_some() => {
                Ok(Network { base: base.to_canonical(), prefix: prefix - MAPPED })
            }
            _ => Ok(Network { base, prefix }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_begins_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "::ffff:10.1.2.3", "10.1.2.4"),
            ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.0"),
            ("::ffff:10.1.2.3", "::ffff:10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "::1", "127.0.0.1"),
            ("::1", "::1", "::2"),
        ] {
            let parsed: Network = network.parse().expect(network);
            assert!(parsed.contains(inside.parse().expect("an address")), "{network}");
            assert!(!parsed.contains(outside.parse().expect("an address")), "{network}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "/8", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "10.0.0.0/+8", "10/8", "::1/64", "a/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(()), "{text}");
        }
    }
}
