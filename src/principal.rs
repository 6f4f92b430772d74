//! Who a client is, once that is proved. A session belongs to its principal: nobody else resumes it or takes it over.

use std::sync::Arc;
use std::time::Instant;

/// A client's identity. Two are equal if their users are: how somebody proved it, and until when, makes no difference.
#[derive(Clone, Debug, Default)]
pub struct Principal {
    /// The user that was proved; `None`: anonymous.
    pub user: Option<Arc<str>>,
    /// What the token says that proved it, if a token did.
    pub token: Option<Arc<Token>>,
    /// It came by a listener on loopback that lets anybody in.
    pub local: bool,
    /// Tells the password that proved it from those that the user had before or will have, or the key of the token that did
    /// from others; 0: it was neither.
    pub credential: u32,
}

/// What a token says besides whose it is.
#[derive(Debug, Default)]
pub struct Token {
    /// When it ends, and with it the connection; `None`: never.
    pub expires: Option<Instant>,
    /// The topic filters that may be published to; `None`: the token does not say, so other rules do.
    pub publish: Option<Vec<String>>,
    /// The topic filters that may be subscribed to; `None`: the token does not say, so other rules do.
    pub subscribe: Option<Vec<String>>,
}

impl Principal {
    /// A client that has proved nothing.
    pub const ANONYMOUS: Principal = Principal { user: None, token: None, local: false, credential: 0 };

    /// A user without a token.
    pub fn of_user(user: impl Into<Arc<str>>) -> Principal {
        Principal { user: Some(user.into()), ..Principal::ANONYMOUS }
    }

    /// The user's name, unless it is anonymous.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// When its connection must end.
    pub fn expires(&self) -> Option<Instant> {
        self.token.as_ref()?.expires
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Principal) -> bool {
        self.user == other.user
    }
}

impl Eq for Principal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_is_its_user_and_anonymous_is_nobodys_name() {
        let token = Some(Arc::new(Token::default()));
        assert_eq!(Principal::of_user("a"), Principal { token, ..Principal::of_user("a") });
        assert_ne!(Principal::of_user("a"), Principal::of_user("A"));
        assert_ne!(Principal::ANONYMOUS, Principal::of_user(""));
        assert_eq!(Principal::ANONYMOUS, Principal::default());
    }
}
