//! Certificates made here, by an authority made here.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer as Authority,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

use super::*;

struct Ca {
    authority: Authority<'static, KeyPair>,
    pem: String,
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("keys");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    Ca { authority: Authority::new(params, key), pem }
}

impl Ca {
    fn issue(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().expect("keys");
        params.signed_by(&key, &self.authority).expect("a certificate").der().to_vec()
    }

    fn named(&self, serial: u64, name: &str) -> Vec<u8> {
        self.issue(serial, |params| params.distinguished_name.push(DnType::CommonName, name))
    }

    fn list(&self, serials: &[u64]) -> rcgen::CertificateRevocationList {
        self.list_until(2046, serials)
    }

    fn list_until(&self, year: i32, serials: &[u64]) -> rcgen::CertificateRevocationList {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2016, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.authority).expect("a list")
    }
}

fn file(name: &str, content: &[u8]) -> String {
    let folder = std::env::temp_dir().join(format!("fleetpulse-certificate-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

fn check(certificates: &Certificates, der: &[u8]) -> Result<Found, Denied> {
    checked(certificates, &Lists::default(), der)
}

fn checked(certificates: &Certificates, lists: &Lists, der: &[u8]) -> Result<Found, Denied> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let certificate = Some(der);
    let login = Credentials { client_id: "", username: None, password: None, certificate, peer };
    certificates.check(lists, &login).expect("mine")
}

fn issued(found: &Found) -> Arc<Issued> {
    let CredentialId::Certificate(issued) = &found.credential else { panic!("a certificate") };
    Arc::clone(issued)
}

#[test]
fn a_certificate_names_its_device_where_it_is_set() {
    let ca = ca("fleet ca");
    let der = ca.issue(7, |params| {
        params.distinguished_name.push(DnType::CommonName, "d-cn");
        params.distinguished_name.push(DnType::OrganizationName, "acme");
        params.subject_alt_names = vec![
            SanType::DnsName("d-dns".try_into().expect("a name")),
            SanType::DnsName("other".try_into().expect("a name")),
            SanType::URI("urn:d-uri".try_into().expect("a name")),
        ];
    });
    for (identity, name) in [
        (CertificateIdentity::CommonName, "d-cn"),
        (CertificateIdentity::SanDns, "d-dns"),
        (CertificateIdentity::SanUri, "urn:d-uri"),
    ] {
        let certificates =
            Certificates::read(&Config { certificate_identity: identity, ..Config::default() });
        let found = check(&certificates.expect("no files"), &der).expect("good");
        assert_eq!((found.kind, &*found.name, found.fleet.as_deref()), (Kind::Device, name, Some("acme")));
        assert!(found.expires_at.is_some_and(|end| end > SystemTime::now()));
    }
    let service = ca.issue(8, |params| {
        params.distinguished_name.push(DnType::CommonName, "billing");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "service");
    });
    let certificates = Certificates::read(&Config::default()).expect("no files");
    assert_eq!(check(&certificates, &service).expect("good").kind, Kind::Service);
}

#[test]
fn a_certificate_that_names_nobody_or_a_wildcard_is_refused() {
    let ca = ca("fleet ca");
    let certificates = Certificates::read(&Config::default()).expect("no files");
    let nobody = ca.issue(1, |_| ());
    assert_eq!(check(&certificates, &nobody).map(drop), Err(Denied::Certificate("it has no common name")));
    for name in ["#", "a/b", "+"] {
        assert!(matches!(check(&certificates, &ca.named(2, name)).map(drop), Err(Denied::Name(_))), "{name}");
    }
    let over = ca.issue(3, |params| {
        params.distinguished_name.push(DnType::CommonName, "d1");
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    assert_eq!(check(&certificates, &over).map(drop), Err(Denied::Expired));
    assert_eq!(check(&certificates, b"junk").map(drop), Err(Denied::Certificate("it cannot be read")));
}

#[test]
fn a_revoked_certificate_is_found_in_pem_and_der() {
    let (ca, other) = (ca("fleet ca"), ca("other ca"));
    let before = Certificates::read(&Config::default()).expect("no files");
    let (good, bad) = (ca.named(1, "good"), ca.named(200, "bad"));
    let (good_id, bad_id) = (
        issued(&check(&before, &good).expect("good")),
        issued(&check(&before, &bad).expect("not revoked yet")),
    );
    // The other authority gave the same number to somebody else.
    let both = [other.list(&[1]).pem().expect("pem"), ca.list(&[200]).pem().expect("pem")].concat();
    for (name, content) in [("crl.pem", both.into_bytes()), ("crl.der", ca.list(&[200]).der().to_vec())] {
        let lists = Lists::read(&file(name, &content)).expect("a list");
        assert!(before.holds(&lists, &good_id) && !before.holds(&lists, &bad_id), "{name}");
        assert_eq!(checked(&before, &lists, &bad).map(drop), Err(Denied::Revoked));
        assert!(checked(&before, &lists, &good).is_ok());
        assert_eq!(revocation_lists(&file(name, &content)).map(|lists| !lists.is_empty()), Ok(true));
    }
    let (lists, stranger) =
        (Lists::read(&file("own.der", ca.list(&[]).der())).expect("a list"), other.named(1, "d"));
    assert_eq!(checked(&before, &lists, &stranger).map(drop), Err(Denied::NoRevocationList));
    assert!(check(&before, &stranger).is_ok(), "nobody asked for lists");
}

#[test]
fn lists_that_are_missing_or_over_are_a_mistake_and_never_mean_that_nothing_is_revoked() {
    let ca = ca("fleet ca");
    let over = ca.list_until(2020, &[1]);
    let certificate = &ca.pem;
    let half = ca.list(&[1]).pem().expect("pem").replace("-----END", "");
    for (name, content, why) in [
        ("empty", &b""[..], "no revocation list"),
        ("junk", b"junk", "no revocation list"),
        ("over.der", over.der(), "CN=fleet ca is over since"),
        ("over.pem", over.pem().expect("pem").as_bytes(), "is over since"),
        ("certificate.pem", certificate.as_bytes(), "no revocation list"),
        ("half.pem", half.as_bytes(), "no PEM"),
    ] {
        let path = file(name, content);
        let problems = Lists::read(&path).expect_err(name);
        assert!(problems[0].message.contains(why), "{name}: {problems:?}");
        assert_eq!(revocation_lists(&path).expect_err(name).problems, problems);
    }
    assert!(Lists::read("/nowhere/crl.pem").is_err() && revocation_lists("/nowhere/crl.pem").is_err());
}

#[test]
fn an_issuer_that_had_a_list_keeps_it_until_the_file_has_another() {
    let (ca, other) = (ca("fleet ca"), ca("other ca"));
    let pem = |ca: &Ca, serials: &[u64]| ca.list(serials).pem().expect("pem");
    let path = file("again.pem", [pem(&ca, &[1]), pem(&other, &[])].concat().as_bytes());
    let before = Lists::read(&path).expect("lists");
    file("again.pem", pem(&ca, &[1, 2]).as_bytes());
    let problems = Lists::read_again(&path, &before).expect_err("one is missing");
    assert!(problems[0].message.contains("1 issuers"), "{problems:?}");
    file("again.pem", [pem(&ca, &[2]), pem(&other, &[])].concat().as_bytes());
    let after = Lists::read_again(&path, &before).expect("both");
    let certificates = Certificates::read(&Config::default()).expect("no files");
    assert!(checked(&certificates, &before, &ca.named(2, "d2")).is_ok());
    assert_eq!(checked(&certificates, &after, &ca.named(2, "d2")).map(drop), Err(Denied::Revoked));
}

#[tokio::test]
async fn lists_that_are_late_do_not_keep_an_issuer_in() {
    let (ca, other) = (ca("fleet ca"), ca("other ca"));
    let lists = [ca.list(&[2]), other.list(&[])].map(|list| list.pem().expect("pem")).concat();
    let config = Config {
        chain: vec![crate::Source::Certificate],
        certificate_issuers_file: file("late-issuers.pem", [&*ca.pem, &other.pem].concat().as_bytes()),
        certificate_crl_file: file("late-lists.pem", lists.as_bytes()),
        ..Config::default()
    };
    let access = crate::Access::open(config).expect("good files");
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let login =
        |der| Credentials { client_id: "", username: None, password: None, certificate: Some(der), peer };
    let (own, gone, revoked) = (ca.named(1, "d1"), other.named(1, "d3"), ca.named(2, "d2"));
    let own = access.authenticate(login(&own)).await.expect("good");
    let gone = access.authenticate(login(&gone)).await.expect("good");
    file("late-issuers.pem", ca.pem.as_bytes());
    file("late-lists.pem", ca.list_until(2020, &[]).pem().expect("pem").as_bytes());
    assert!(access.read_again(), "the issuers were read");
    assert!(access.still_valid(&own) && !access.still_valid(&gone));
    assert_eq!(access.authenticate(login(&revoked)).await.map(drop), Err(Denied::Revoked));
}

#[test]
fn an_issuer_that_is_gone_or_has_a_new_key_is_found() {
    let (ca, other, renewed) = (ca("fleet ca"), ca("other ca"), ca("fleet ca"));
    let read = |name: &str, pem: &[&str]| {
        let path = file(name, pem.concat().as_bytes());
        Certificates::read(&Config { certificate_issuers_file: path, ..Config::default() }).expect("issuers")
    };
    let both = read("both", &[&other.pem, &ca.pem]);
    let found = check(&both, &ca.named(1, "d1")).expect("good");
    assert!(both.holds(&Lists::default(), &issued(&found)));
    assert!(!read("other", &[&other.pem]).holds(&Lists::default(), &issued(&found)));
    assert!(!read("renewed", &[&renewed.pem]).holds(&Lists::default(), &issued(&found)));
    let none = Config { certificate_issuers_file: file("none", b"\n"), ..Config::default() };
    assert!(Certificates::read(&none).is_err());
}
