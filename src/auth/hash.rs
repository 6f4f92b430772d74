//! Password hashes as mosquitto's password file has them: SHA-512 (`$6$`), PBKDF2 (`$7$`) and argon2id. What would take an
//! absurd time or memory to check is refused when it is read.

use std::fmt::Write;
use std::hash::BuildHasher;
use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use ring::{digest, pbkdf2};

/// The most memory that one hash may ask for, in KiB.
pub const MOST_MEMORY: u32 = 192 * 1024;

/// The most passes of argon2 over its memory, counted in KiB: about a second.
const MOST_WORK: u64 = 1024 * 1024;

/// The most lanes of argon2.
const MOST_LANES: u32 = 16;

/// The most rounds of PBKDF2: about a second.
const MOST_ITERATIONS: u32 = 2_000_000;

/// Bytes of SHA-512, and so of the hashes that are made of it.
const SHA512: usize = 64;

/// What a hash written by us costs: that of mosquitto 2.1, which OWASP recommends as well.
const MEMORY: u32 = 47_104;

/// A password's hash, and all that it takes to compare a password with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    kind: Kind,
    salt: Box<[u8]>,
    hash: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// SHA-512 of the password and the salt.
    Sha512,
    /// PBKDF2 with HMAC-SHA-512, so many rounds.
    Pbkdf2(NonZeroU32),
    Argon2id(Params),
}

/// The memory that argon2 works in, which one hash after the other uses.
#[derive(Default)]
pub struct Workspace {
    blocks: Vec<Block>,
}

impl Workspace {
    /// Bytes that it holds.
    pub fn len(&self) -> usize {
        self.blocks.capacity() * Block::SIZE
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives the memory back.
    pub fn clear(&mut self) {
        self.blocks = Vec::new();
    }

    fn blocks(&mut self, count: usize) -> &mut [Block] {
        if self.blocks.len() < count {
            // Exactly as much, and not what a growing vector would take.
            self.blocks = vec![Block::default(); count];
        }
        &mut self.blocks[..count]
    }
}

impl Hash {
    /// Reads one, as it stands behind the colon of a password file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Hash, String> {
        let mut parts = text.strip_prefix('$').ok_or("not a hash: it does not begin with $")?.split('$');
        let mut next = || parts.next().ok_or("the hash is cut short");
        let hash = match next()? {
            "6" => Hash { kind: Kind::Sha512, salt: padded(next()?)?, hash: padded(next()?)? },
            "7" => Hash { kind: iterations(next()?)?, salt: padded(next()?)?, hash: padded(next()?)? },
            "argon2id" => {
                if next()? != "v=19" {
                    return Err("an argon2 version other than 19".to_owned());
                }
                let costs = next()?;
                let (salt, hash) = (unpadded(next()?)?, unpadded(next()?)?);
                Hash { kind: Kind::Argon2id(costs_of(costs, hash.len())?), salt, hash }
            }
            other => return Err(format!("${}$ is no kind of hash that is known", other.escape_debug())),
        };
        if parts.next().is_some() {
            return Err("something follows the hash".to_owned());
        }
        if !(8..=64).contains(&hash.salt.len()) {
            return Err(format!("a salt of {} bytes: it must have 8 to 64", hash.salt.len()));
        }
        let len = if matches!(hash.kind, Kind::Argon2id(_)) { 16..=64 } else { SHA512..=SHA512 };
        if !len.contains(&hash.hash.len()) {
            return Err(format!("a hash of {} bytes: it may be cut short", hash.hash.len()));
        }
        Ok(hash)
    }

    /// Makes one as they are written today.
    ///
    /// # Errors
    /// If argon2 refuses it.
    pub fn make(password: &[u8], salt: [u8; 16]) -> Result<Hash, String> {
        Hash::argon2id(password, salt, (MEMORY, 1, 1))
    }

    /// Makes one of argon2id with this memory in KiB, so many passes and lanes.
    ///
    /// # Errors
    /// If argon2 refuses it.
    pub fn argon2id(
        password: &[u8],
        salt: [u8; 16],
        (memory, passes, lanes): (u32, u32, u32),
    ) -> Result<Hash, String> {
        let params = Params::new(memory, passes, lanes, Some(32)).map_err(|error| error.to_string())?;
        let mut hash = Hash { kind: Kind::Argon2id(params), salt: salt.into(), hash: [0; 32].into() };
        hash.hash = hash.of(password, &mut Workspace::default()).ok_or("argon2 refuses it")?;
        Ok(hash)
    }

    /// Whether it is that of `password`.
    pub fn matches(&self, password: &[u8], workspace: &mut Workspace) -> bool {
        match &self.kind {
            Kind::Pbkdf2(iterations) => {
                let algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
                pbkdf2::verify(algorithm, *iterations, &self.salt, password, &self.hash).is_ok()
            }
            _ => self.of(password, workspace).is_some_and(|other| same(&other, &self.hash)),
        }
    }

    fn of(&self, password: &[u8], workspace: &mut Workspace) -> Option<Box<[u8]>> {
        match &self.kind {
            Kind::Sha512 => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(&self.salt);
                Some(context.finish().as_ref().into())
            }
            Kind::Pbkdf2(iterations) => {
                let mut out = [0; SHA512];
                pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, &self.salt, password, &mut out);
                Some(out.into())
            }
            Kind::Argon2id(params) => {
                let mut out = vec![0; self.hash.len()];
                let blocks = workspace.blocks(params.block_count());
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
                argon2.hash_password_into_with_memory(password, &self.salt, &mut out, blocks).ok()?;
                Some(out.into())
            }
        }
    }

    /// Tells it from others, and is not 0. (Salts differ even where passwords are the same.)
    pub fn mark(&self) -> u32 {
        let state = foldhash::quality::FixedState::default();
        state.hash_one((&self.salt, &self.hash)) as u32 | 1
    }

    /// Bytes of memory that a comparison takes.
    pub fn memory(&self) -> usize {
        match &self.kind {
            Kind::Argon2id(params) => params.block_count() * Block::SIZE,
            _ => 0,
        }
    }

    /// What a comparison costs, in units of about a microsecond.
    pub fn cost(&self) -> u64 {
        match &self.kind {
            Kind::Sha512 => 1,
            Kind::Pbkdf2(iterations) => 1 + u64::from(iterations.get()),
            Kind::Argon2id(params) => 1 + u64::from(params.m_cost()) * u64::from(params.t_cost()),
        }
    }

    /// One that costs the same and is that of no password.
    pub fn nobodys(&self) -> Hash {
        // Nobody can know what gives such a hash, and whoever did would still be no user.
        Hash { kind: self.kind.clone(), salt: self.salt.clone(), hash: vec![0; self.hash.len()].into() }
    }

    /// As it stands in a password file.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        let (salt, hash) = (&self.salt, &self.hash);
        // Writing to a string does not fail.
        let _ = match &self.kind {
            Kind::Sha512 => {
                write!(text, "$6${}${}", BASE64_STANDARD.encode(salt), BASE64_STANDARD.encode(hash))
            }
            Kind::Pbkdf2(rounds) => {
                let (salt, hash) = (BASE64_STANDARD.encode(salt), BASE64_STANDARD.encode(hash));
                write!(text, "$7${rounds}${salt}${hash}")
            }
            Kind::Argon2id(params) => {
                let (m, t, p) = (params.m_cost(), params.t_cost(), params.p_cost());
                let (salt, hash) = (BASE64_STANDARD_NO_PAD.encode(salt), BASE64_STANDARD_NO_PAD.encode(hash));
                write!(text, "$argon2id$v=19$m={m},t={t},p={p}${salt}${hash}")
            }
        };
        text
    }
}

/// Compares without telling by its time where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

fn padded(text: &str) -> Result<Box<[u8]>, String> {
    BASE64_STANDARD.decode(text).map(Into::into).map_err(|error| format!("not base64: {error}"))
}

fn unpadded(text: &str) -> Result<Box<[u8]>, String> {
    BASE64_STANDARD_NO_PAD.decode(text).map(Into::into).map_err(|error| format!("not base64: {error}"))
}

fn iterations(text: &str) -> Result<Kind, String> {
    let number = text.parse::<NonZeroU32>().map_err(|_| "the number of rounds is not a number".to_owned())?;
    if number.get() > MOST_ITERATIONS {
        return Err(format!("{number} rounds: more than {MOST_ITERATIONS} would take too long"));
    }
    Ok(Kind::Pbkdf2(number))
}

/// Reads `m=47104,t=1,p=1`.
fn costs_of(text: &str, len: usize) -> Result<Params, String> {
    let mut parts = text.split(',');
    let mut cost = |name: &str| -> Result<u32, String> {
        let value = parts.next().and_then(|part| part.strip_prefix(name)?.strip_prefix('='));
        value
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| format!("the cost {name} of argon2 is missing"))
    };
    let (m, t, p) = (cost("m")?, cost("t")?, cost("p")?);
    if parts.next().is_some() {
        return Err("argon2 with parameters other than m, t and p".to_owned());
    }
    if m > MOST_MEMORY {
        return Err(format!("{m} KiB of memory: more than {MOST_MEMORY} KiB are not given to one password"));
    }
    if u64::from(m) * u64::from(t) > MOST_WORK || p > MOST_LANES {
        return Err(format!("m={m}, t={t}, p={p} would take too long"));
    }
    Params::new(m, t, p, Some(len)).map_err(|error| format!("m={m}, t={t}, p={p}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by mosquitto_passwd 2.0.11: `secret`.
    const PBKDF2: &str = "$7$101$3llQlqSnmH6gboCm$1tVoz8kvZbp62Gq37SZ8Byu0KXB6hU8bUaegqwyAOrcnJ/\
                        eVL+798WJ8bKBmreYwkXhOvHFn/yrMRq3bUmRfZA==";
    // Made by the reference implementation's `argon2`: `secret`, cheap.
    const ARGON2: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$";

    fn matches(hash: &Hash, password: &str) -> bool {
        hash.matches(password.as_bytes(), &mut Workspace::default())
    }

    #[test]
    fn mosquittos_hashes_are_read_and_written() {
        let hash = Hash::parse(PBKDF2).expect("a hash");
        assert!(matches(&hash, "secret") && !matches(&hash, "Secret") && !matches(&hash, ""));
        assert_eq!(hash.encode(), PBKDF2);
        let sha = Hash { kind: Kind::Sha512, salt: [7; 12].into(), hash: [0; 64].into() };
        let sha = Hash { hash: sha.of(b"secret", &mut Workspace::default()).expect("a hash"), ..sha };
        assert_eq!(Hash::parse(&sha.encode()), Ok(sha.clone()));
        assert!(matches(&sha, "secret") && !matches(&sha, "secre"));
    }

    #[test]
    fn argon2id_is_made_and_read() {
        let hash = Hash::make(b"secret", [1; 16]).expect("a hash");
        assert!(hash.encode().starts_with("$argon2id$v=19$m=47104,t=1,p=1$"));
        let again = Hash::parse(&hash.encode()).expect("what was written");
        assert!(again == hash && matches(&again, "secret") && !matches(&again, "secrets"));
        assert_eq!(hash.memory(), 47_104 * 1024);
        let nobodys = hash.nobodys();
        assert_eq!((nobodys.cost(), nobodys.memory()), (hash.cost(), hash.memory()));
        assert!(!matches(&nobodys, "secret"));
    }

    #[test]
    fn what_is_malformed_or_absurd_is_refused() {
        let long = format!("{ARGON2}{}", BASE64_STANDARD_NO_PAD.encode([0; 32]));
        assert!(Hash::parse(&long).is_ok());
        for (from, to, says) in [
            ("m=64", "m=4194304", "memory"),
            ("m=64", "m=190000", "too long"),
            ("t=1", "t=99999", "too long"),
            ("t=1", "t=0", "t=0"),
            ("p=1", "p=200", "too long"),
            ("m=64", "m=1", "m=1"),
            ("m=64,", "", "the cost m"),
            ("p=1", "p=1,x=1", "other than"),
            ("v=19", "v=16", "version"),
            ("argon2id", "argon2i", "no kind"),
            ("c29tZXNhbHRzb21lc2FsdA", "c29t", "salt of 3"),
        ] {
            let to = if from == "m=64" && to == "m=190000" { "m=190000,t=9,p=1$" } else { to };
            let text = match to.ends_with('$') {
                true => long.replace("m=64,t=1,p=1$", to),
                false => long.replace(from, to),
            };
            let error = Hash::parse(&text).expect_err(&text);
            assert!(error.contains(says), "{text}: {error}");
        }
        for text in [
            "",
            "secret",
            "$",
            "$6",
            "$6$",
            "$6$c29tZXNhbHRz",
            "$6$c29tZXNhbHRz$",
            "$6$c29tZXNhbHRz$AAAA",
            "$7$0$c29tZXNhbHRz$AAAA",
            "$7$99999999$c29tZXNhbHRz$AAAA",
            "$5$a$b",
            "$argon2id$v=19",
        ] {
            assert!(Hash::parse(text).is_err(), "{text}");
        }
        // Cut anywhere, it is never another hash.
        for end in 0..PBKDF2.len() {
            assert!(Hash::parse(&PBKDF2[..end]).is_err(), "{end}");
        }
        assert!(Hash::parse(&format!("{PBKDF2}$x")).is_err());
    }

    #[test]
    fn the_memory_is_used_again_and_given_back() {
        let mut workspace = Workspace::default();
        let hash = Hash::make(b"x", [1; 16]).expect("a hash");
        assert!(hash.matches(b"x", &mut workspace) && hash.matches(b"x", &mut workspace));
        assert_eq!(workspace.len(), hash.memory());
        workspace.clear();
        assert!(workspace.is_empty());
    }
}
