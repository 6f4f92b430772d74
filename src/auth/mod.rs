//! Who may connect. A client's [`Attempt`] is judged by the methods that the configuration has, one after the other, until
//! one says that the credentials are of its kind. What costs nothing is said at once; everything else is worked out by a
//! few threads, and the answer comes later. Nothing of a session is touched before.

mod backoff;
pub mod certificate;
mod der;
pub mod hash;
pub mod passwd;
pub mod passwords;
mod pool;
pub mod token;

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{AuthConfig, Config, ConfigError};
use crate::principal::Principal;
use crate::protocol::reason::ReasonCode;

use backoff::Backoff;
use hash::{Hash, Workspace};
use passwords::Passwords;
use pool::Pool;
use token::Tokens;

/// What a client says of itself, and by which door it comes.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The user name, if it brought one.
    pub user: Option<Box<str>>,
    /// The password, if it brought one.
    pub password: Option<Box<[u8]>>,
    /// The user that its certificate names, where that counts: it was checked against the authority.
    pub certified: Option<Arc<str>>,
    /// Whether a client without credentials may come in here.
    pub allow_anonymous: bool,
    /// Where it is, if it is not on this machine.
    pub address: Option<IpAddr>,
}

impl Attempt {
    /// The user name and the password, if both are there and say something.
    fn pair(&self) -> Option<(&str, &[u8])> {
        let (user, password) = (self.user.as_deref()?, self.password.as_deref()?);
        (!user.is_empty() && !password.is_empty()).then_some((user, password))
    }
}

/// What becomes of an attempt.
pub type Verdict = Result<Principal, Refused>;

/// Why a client does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it is told.
    pub reason: ReasonCode,
    /// What the log says.
    pub detail: &'static str,
    /// It is to be told after so long.
    pub delay: Duration,
}

impl Refused {
    fn at_once(reason: ReasonCode, detail: &'static str) -> Refused {
        Refused { reason, detail, delay: Duration::ZERO }
    }
}

/// What a method makes of credentials.
pub enum Judgement {
    /// They prove who it is.
    Right(Principal),
    /// They prove nothing; why, for the log.
    Wrong(&'static str),
    /// They are not of this method's kind.
    Other,
}

/// A way to prove who one is.
pub trait Method: Send + Sync {
    /// Says at once, in a microsecond or so, whose credentials these are, if that is known.
    fn recall(&self, _: &Attempt) -> Option<Principal> {
        None
    }

    /// The bytes of memory that a judgement works in.
    fn memory(&self) -> usize {
        0
    }

    /// Judges credentials, on a thread of the pool.
    fn judge(&self, attempt: &Attempt, work: &mut Work<'_>) -> Judgement;

    /// Whether what once proved that somebody is this user ([`Principal::credential`]) still would.
    fn vouches(&self, _user: &str, _credential: u32) -> bool {
        false
    }
}

/// What a judgement has to work with.
pub struct Work<'a> {
    workspace: &'a mut Workspace,
    effort: &'a Effort,
    /// Seconds since 1970.
    pub wall: u64,
    /// The time of day as the rest of the broker knows it.
    pub now: Instant,
}

impl Work<'_> {
    /// Compares a password with a hash, and counts the work.
    pub fn compare(&mut self, hash: &Hash, password: &[u8]) -> bool {
        self.effort.hashes.fetch_add(1, Relaxed);
        self.effort.cost.fetch_add(hash.cost(), Relaxed);
        hash.matches(password, self.workspace)
    }
}

/// The work that was done.
#[derive(Debug, Default)]
struct Effort {
    hashes: AtomicU64,
    cost: AtomicU64,
}

/// How much has been worked out since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Hashes that passwords were compared with.
    pub hashes: u64,
    /// What that has cost, in units of [`Hash::cost`].
    pub cost: u64,
    /// The most memory that the threads have held together, in bytes.
    pub memory: usize,
}

/// Where the time comes from.
#[derive(Clone, Copy)]
pub struct Clocks {
    /// The monotonic one.
    pub now: fn() -> Instant,
    /// The wall clock, by which tokens end.
    pub wall: fn() -> SystemTime,
}

/// All that says who may connect; shared by every listener.
pub struct Auth {
    core: Arc<Core>,
    pool: Pool,
}

struct Core {
    rules: RwLock<Arc<Rules>>,
    backoff: Mutex<Backoff>,
    effort: Effort,
    clocks: Clocks,
}

/// What the configuration and its files say.
struct Rules {
    methods: Vec<Box<dyn Method>>,
    failure_delay: Duration,
    /// What an operator should know of the files.
    doubts: Vec<String>,
}

impl Rules {
    fn read(config: &AuthConfig) -> Result<Rules, ConfigError> {
        let (mut methods, mut doubts): (Vec<Box<dyn Method>>, _) = (Vec::new(), Vec::new());
        if let Some(jwt) = &config.jwt {
            methods.push(Box::new(Tokens::read(jwt)?));
        }
        if let Some(file) = &config.password_file {
            let passwords = Passwords::read(file)?;
            doubts.extend(passwords.doubt().map(str::to_owned));
            methods.push(Box::new(passwords));
        }
        Ok(Rules { methods, failure_delay: config.failure_delay, doubts })
    }
}

impl Auth {
    /// Reads the files and starts the threads.
    ///
    /// # Errors
    /// What is wrong with a file, and in which line; or that the system gives no thread.
    pub fn start(config: &Config, clocks: Clocks) -> Result<Auth, ConfigError> {
        let rules = Rules::read(&config.auth)?;
        let threads = if rules.methods.is_empty() { 0 } else { config.auth.threads };
        let pool = Pool::start(threads, config.auth.max_wait, clocks.now);
        let pool = pool.map_err(no_thread)?;
        let core = Core {
            rules: RwLock::new(Arc::new(rules)),
            backoff: Mutex::default(),
            effort: Effort::default(),
            clocks,
        };
        Ok(Auth { core: Arc::new(core), pool })
    }

    /// Reads the files only to see that they can be used; what an operator should know of them all the same.
    ///
    /// # Errors
    /// What is wrong with one, and in which line.
    pub fn check(config: &Config) -> Result<Vec<String>, ConfigError> {
        Rules::read(&config.auth).map(|rules| rules.doubts)
    }

    /// What an operator should know of the files that are in use.
    pub fn doubts(&self) -> Vec<String> {
        self.core.rules().doubts.clone()
    }

    /// Reads the files anew. What was remembered is forgotten: every client proves again who it is.
    ///
    /// # Errors
    /// What is wrong with a file, and in which line; then all is as it was.
    pub fn reload(&self, config: &Config) -> Result<(), ConfigError> {
        let rules = Rules::read(&config.auth)?;
        if !rules.methods.is_empty() {
            self.pool.grow(config.auth.threads).map_err(no_thread)?;
        }
        self.pool.set_longest_wait(config.auth.max_wait);
        *self.core.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        Ok(())
    }

    /// Judges an attempt: now, or later by `answer` from another thread. Never both.
    pub fn judge(&self, attempt: Attempt, answer: impl FnOnce(Verdict) + Send + 'static) -> Option<Verdict> {
        let rules = self.core.rules();
        if let Some(verdict) = at_once(&rules, &attempt) {
            return Some(verdict);
        }
        if let Some(principal) = rules.methods.iter().find_map(|method| method.recall(&attempt)) {
            self.core.succeeded(&attempt);
            return Some(Ok(principal));
        }
        let memory = rules.methods.iter().map(|method| method.memory()).max().unwrap_or(0);
        let (core, from) = (self.core.clone(), attempt.address);
        let work = move |workspace: Option<&mut Workspace>| answer(core.work_out(&attempt, workspace));
        self.pool.submit(from, memory, Box::new(work));
        None
    }

    /// Whether a client's password or token would still do, if it was by one that it proved who it is.
    pub fn vouches(&self, principal: &Principal) -> bool {
        let Some(user) = principal.user().filter(|_| principal.credential != 0) else { return true };
        self.core.rules().methods.iter().any(|method| method.vouches(user, principal.credential))
    }

    /// How much has been worked out.
    pub fn done(&self) -> Done {
        let Effort { hashes, cost } = &self.core.effort;
        Done { hashes: hashes.load(Relaxed), cost: cost.load(Relaxed), memory: self.pool.peak() }
    }
}

fn no_thread(error: io::Error) -> ConfigError {
    ConfigError::new(format!("the system gives no thread for passwords: {error}"))
}

/// What can be said of an attempt without any work.
fn at_once(rules: &Rules, attempt: &Attempt) -> Option<Verdict> {
    let refuse = |reason, detail| Some(Err(Refused::at_once(reason, detail)));
    if let Some(certified) = &attempt.certified {
        // The certificate has said who it is; it cannot say at the same time that it is somebody else.
        return match attempt.user.as_deref() {
            Some(user) if user != &**certified => {
                refuse(ReasonCode::BadUserNameOrPassword, "not the user that its certificate names")
            }
            _ => Some(Ok(Principal::of_user(certified.clone()))),
        };
    }
    let brings_none = attempt.user.is_none() && attempt.password.is_none();
    if attempt.allow_anonymous && (brings_none || rules.methods.is_empty()) {
        // A name that nothing can be held against is no name.
        return Some(Ok(Principal::ANONYMOUS));
    }
    if brings_none {
        return refuse(ReasonCode::NotAuthorized, "anonymous clients are not allowed");
    }
    if rules.methods.is_empty() {
        return refuse(ReasonCode::BadUserNameOrPassword, "there are no users");
    }
    if attempt.password.as_deref().is_none_or(<[u8]>::is_empty) {
        return refuse(ReasonCode::BadUserNameOrPassword, "a user without a password");
    }
    None
}

impl Core {
    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn work_out(&self, attempt: &Attempt, workspace: Option<&mut Workspace>) -> Verdict {
        let Some(workspace) = workspace else {
            let detail = "too many clients wait for their passwords to be checked";
            return Err(Refused::at_once(ReasonCode::ServerBusy, detail));
        };
        loop {
            let rules = self.rules();
            let verdict = self.judge(&rules, attempt, workspace);
            // What was changed meanwhile holds at once.
            if Arc::ptr_eq(&rules, &self.rules()) {
                return verdict;
            }
        }
    }

    fn judge(&self, rules: &Rules, attempt: &Attempt, workspace: &mut Workspace) -> Verdict {
        let now = (self.clocks.now)();
        let wall = (self.clocks.wall)().duration_since(SystemTime::UNIX_EPOCH);
        let wall = wall.map_or(0, |since| since.as_secs());
        let mut work = Work { workspace, effort: &self.effort, wall, now };
        let mut detail = "credentials of no kind that is known";
        for method in &rules.methods {
            match method.judge(attempt, &mut work) {
                Judgement::Right(principal) => {
                    self.succeeded(attempt);
                    return Ok(principal);
                }
                Judgement::Wrong(why) => {
                    detail = why;
                    break;
                }
                Judgement::Other => {}
            }
        }
        let user = attempt.user.as_deref().unwrap_or_default();
        let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = backoff.failed(now, attempt.address, user, rules.failure_delay);
        Err(Refused { reason: ReasonCode::BadUserNameOrPassword, detail, delay })
    }

    fn succeeded(&self, attempt: &Attempt) {
        let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
        backoff.succeeded(attempt.address, attempt.user.as_deref().unwrap_or_default());
    }
}
