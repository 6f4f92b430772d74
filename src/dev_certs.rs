//! `weirmq dev-certs DIR`: a test authority with one server and one client certificate, for trying TLS on one's
//! own machine. Whoever has `ca.key` can be any server and any client, so it is nothing to run a business on.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Write a test CA, a server and a client certificate into a folder
#[derive(Args, Clone, Debug)]
pub struct DevCertsArgs {
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The names and addresses that clients will connect to
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "localhost,127.0.0.1,::1")]
    pub names: Vec<String>,
    /// The user that the client certificate stands for, its Common Name
    #[arg(long, value_name = "NAME", default_value = "client")]
    pub client: String,
    /// For how many days the certificates hold
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

/// Writes the files, says so on standard output, and shows how to use them.
pub fn run(args: &DevCertsArgs, now: SystemTime) -> ExitCode {
    match write(args, now) {
        Ok(files) => {
            for file in &files {
                println!("{}", file.display());
            }
            println!("{}", usage(args));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("weirmq dev-certs: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes `ca`, `server` and `client`, a `.pem` and a `.key` of each, into the folder, and returns their paths.
///
/// # Errors
/// A file that is there already (unless it may be replaced) or cannot be written; a name that is no name.
pub fn write(args: &DevCertsArgs, now: SystemTime) -> io::Result<Vec<PathBuf>> {
    let files = make(args, now).map_err(io::Error::other)?;
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| args.dir.join(name)).collect();
    if !args.force
        && let Some(path) = paths.iter().find(|path| path.symlink_metadata().is_ok())
    {
        let message = format!("{} exists; --force replaces it", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    fs::create_dir_all(&args.dir).map_err(|error| at(&args.dir, &error))?;
    for (path, (_, text)) in paths.iter().zip(&files) {
        write_file(path, text).map_err(|error| at(path, &error))?;
    }
    Ok(paths)
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes a new file, so that a key never takes over the mode of what was there.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let is_key = path.extension().is_some_and(|extension| extension == "key");
    let mode = if is_key { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

/// The files: name and content.
fn make(args: &DevCertsArgs, now: SystemTime) -> Result<[(&'static str, String); 6], rcgen::Error> {
    let params = |names: Vec<String>, common_name: &str| -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        // The other side's clock may be behind.
        params.not_before = (now - DAY).into();
        params.not_after = (now + DAY * args.days).into();
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    };

    let mut ca = params(Vec::new(), "WeirMQ development CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;

    let leaf = |mut params: CertificateParams, purpose| -> Result<(String, String), rcgen::Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &ca)?.pem(), key.serialize_pem()))
    };
    let server_name = args.names.first().map_or("server", String::as_str);
    let (server, server_key) =
        leaf(params(args.names.clone(), server_name)?, ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = leaf(params(Vec::new(), &args.client)?, ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok([
        ("ca.pem", ca.pem()),
        ("ca.key", ca.key().serialize_pem()),
        ("server.pem", server),
        ("server.key", server_key),
        ("client.pem", client),
        ("client.key", client_key),
    ])
}

/// The lines that use the files.
fn usage(args: &DevCertsArgs) -> String {
    let file = |name: &str| args.dir.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let (client, client_key) = (file("client.pem"), file("client.key"));
    let host = args.names.first().map_or("localhost", String::as_str);
    format!(
        "
In the configuration:

[[listener]]
bind = \"127.0.0.1:8883\"
allow_anonymous = true

[listener.tls]
cert = \"{cert}\"
key = \"{key}\"
client_ca = \"{ca}\"

On the command line:

weirmq sub -h {host} --cafile {ca} -t '#' -v
weirmq pub -h {host} --cafile {ca} --cert {client} --key {client_key} -t hello -m world

They hold for {} days. ca.key can sign for any name: keep it, or delete it, but trust it nowhere else.",
        args.days
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::crypto::ring;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    use super::*;

    fn args(dir: &Path) -> DevCertsArgs {
        DevCertsArgs {
            dir: dir.join("certs"),
            names: ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
            client: "alice".to_owned(),
            days: 2,
            force: false,
        }
    }

    fn chain(dir: &Path, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let pem = CertificateDer::pem_file_iter(dir.join(format!("{name}.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.join(format!("{name}.key"))).unwrap();
        (pem.map(Result::unwrap).collect(), key)
    }

    fn handshake(dir: &Path, name: &str) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(chain(dir, "ca").0.remove(0)).unwrap();
        let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
        let (server_chain, server_key) = chain(dir, "server");
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients.unwrap())
            .with_single_cert(server_chain, server_key)?;
        let (client_chain, client_key) = chain(dir, "client");
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(servers.unwrap())
            .with_client_auth_cert(client_chain, client_key)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut wire.as_slice()).unwrap();
            server.process_new_packets()?;
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut wire.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn server_and_client_trust_each_other_by_each_name_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path());
        assert_eq!(write(&args, SystemTime::now()).unwrap().len(), 6);
        for name in ["localhost", "127.0.0.1", "::1"] {
            assert_eq!(handshake(&args.dir, name), Ok(()), "{name}");
        }
        assert!(handshake(&args.dir, "example.org").is_err());
    }

    #[test]
    fn certificates_expire() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path());
        write(&args, SystemTime::now() - DAY * 3).unwrap();
        assert!(handshake(&args.dir, "localhost").is_err());
    }

    #[test]
    fn only_the_owner_may_read_keys() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = args(dir.path());
        for force in [false, true] {
            args.force = force;
            for path in write(&args, SystemTime::now()).unwrap() {
                let mode = path.metadata().unwrap().permissions().mode() & 0o777;
                let is_key = path.extension().unwrap() == "key";
                assert!(!is_key || mode == 0o600, "{}: {mode:o}", path.display());
                // What --force replaces does not keep its mode.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
            }
        }
    }

    #[test]
    fn nothing_is_touched_if_one_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path());
        fs::create_dir(&args.dir).unwrap();
        fs::write(args.dir.join("client.key"), "mine").unwrap();
        let error = write(&args, SystemTime::now()).unwrap_err();
        assert!(error.to_string().contains("client.key exists"), "{error}");
        assert_eq!(fs::read_dir(&args.dir).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(args.dir.join("client.key")).unwrap(), "mine");
        write(&DevCertsArgs { force: true, ..args }, SystemTime::now()).unwrap();
    }

    #[test]
    fn a_name_that_is_no_name_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let args = DevCertsArgs { names: vec!["exämple".to_owned()], ..args(dir.path()) };
        assert!(write(&args, SystemTime::now()).is_err());
        assert!(!args.dir.exists());
    }
}
