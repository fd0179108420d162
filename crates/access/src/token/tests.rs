//! Tokens that are good, and the ways in which they are not.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

fn file(name: &str, content: &[u8]) -> String {
    let folder: PathBuf = std::env::temp_dir().join(format!("fleetpulse-token-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path.display().to_string()
}

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn check(tokens: &Tokens, token: &str) -> Option<Result<Found, Denied>> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let password = Some(token.as_bytes());
    tokens.check(&Credentials { client_id: "d1", username: Some("jwt"), password, certificate: None, peer })
}

fn denied(tokens: &Tokens, token: &str) -> Denied {
    check(tokens, token).expect("mine").map(|_| ()).expect_err("denied")
}

fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).expect("a token")
}

fn with_secret(change: impl FnOnce(&mut Config)) -> Tokens {
    let mut config =
        Config { jwt_secret_file: file("secret", &[SECRET, b"\n"].concat()), ..Config::default() };
    change(&mut config);
    Tokens::read(&config).expect("keys")
}

/// A pair of P-256 keys: one signs, the other stands in the set.
fn es256(id: &str) -> (EncodingKey, Value) {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("keys");
    // An uncompressed point: 04, x, y.
    let point = pair.public_key_raw();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    let public = json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id,
        "x": part(1..33), "y": part(33..65)});
    (EncodingKey::from_ec_der(&pair.serialize_der()), public)
}

/// A pair of RSA keys of 2,048 bits.
fn rs256(id: &str) -> (EncodingKey, Value) {
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("keys");
    // Its public key is a sequence of modulus and exponent: after headers of 9 and 2 bytes.
    let public = pair.public_key().as_ref();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&public[range]);
    let public = json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id,
        "n": part(9..265), "e": part(267..270)});
    // What stands within PKCS #8, behind 26 bytes that say what it is.
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("DER");
    (EncodingKey::from_rsa_der(&private.as_ref()[26..]), public)
}

fn signed(key: &EncodingKey, id: &str) -> String {
    signed_with(Algorithm::ES256, key, id)
}

fn signed_with(algorithm: Algorithm, key: &EncodingKey, id: &str) -> String {
    let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
    encode(&header, &json!({"sub": "d1", "exp": now() + 60}), key).expect("a token")
}

#[test]
fn a_good_token_names_a_device_until_its_end() {
    let tokens = with_secret(|_| ());
    let end = now() + 600;
    let token = hs256(&json!({"sub": "d1", "fleet": "acme", "exp": end}));
    let found = check(&tokens, &token).expect("mine").expect("good");
    assert_eq!((found.kind, &*found.name, found.fleet.as_deref()), (Kind::Device, "d1", Some("acme")));
    assert_eq!(found.expires_at, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(end + 60)));
    let service = hs256(&json!({"sub": "billing", "kind": "service", "exp": end}));
    assert_eq!(check(&tokens, &service).expect("mine").expect("good").kind, Kind::Service);
    assert!(check(&tokens, "a plain password").is_none() && check(&tokens, "a.b.c").is_none());
}

#[test]
fn what_a_token_must_say_is_required_and_not_only_looked_at() {
    let tokens = with_secret(|config| {
        config.jwt_issuer = "us".into();
        config.jwt_audience = "mqtt".into();
    });
    let (end, token) = (now() + 60, "claims");
    let good = json!({"sub": "d1", "iss": "us", "aud": ["x", "mqtt"], "exp": end});
    assert!(check(&tokens, &hs256(&good)).expect("mine").is_ok(), "{token}");
    let but = |key: &str, value: Value| {
        let mut claims = good.clone();
        match value {
            Value::Null => drop(claims.as_object_mut().expect("claims").remove(key)),
            value => claims[key] = value,
        }
        denied(&tokens, &hs256(&claims))
    };
    assert_eq!(but("aud", json!("other")), Denied::Token("its audience is another"));
    assert_eq!(but("iss", json!("them")), Denied::Token("its issuer is another"));
    for missing in ["aud", "iss", "exp"] {
        assert_eq!(
            but(missing, Value::Null),
            Denied::Token("a claim is missing that must be there"),
            "{missing}"
        );
    }
    assert_eq!(but("exp", json!(now() - 61)), Denied::Expired);
    assert_eq!(but("nbf", json!(now() + 120)), Denied::NotYetValid);
    assert_eq!(but("sub", Value::Null), Denied::Token("it names no device"));
    assert_eq!(but("sub", json!(7)), Denied::Token("a claim that names is no text"));
    assert_eq!(but("kind", json!("root")), Denied::Token("its kind is neither device nor service"));
    for name in ["a/b", "#", "+", ""] {
        assert!(matches!(but("sub", json!(name)), Denied::Name(_)), "{name}");
        assert!(matches!(but("fleet", json!(name)), Denied::Name(_)), "{name}");
    }
    let endless = with_secret(|config| config.jwt_expiry = Expiry::Optional);
    assert!(
        check(&endless, &hs256(&json!({"sub": "d1"}))).expect("mine").expect("good").expires_at.is_none()
    );
    assert_eq!(denied(&endless, &hs256(&json!({"sub": "d1", "exp": now() - 61}))), Denied::Expired);
}

#[test]
fn the_key_decides_the_algorithm_and_never_the_token() {
    let (key, public) = es256("k1");
    let set = json!({"keys": [public]}).to_string();
    let config = Config { jwt_jwks_file: file("confusion", set.as_bytes()), ..Config::default() };
    let tokens = Tokens::read(&config).expect("keys");
    assert!(check(&tokens, &signed(&key, "k1")).expect("mine").is_ok());
    let claims = json!({"sub": "d1", "exp": now() + 60});
    // The public key, in every form in which somebody may have it, as the secret of an HMAC.
    let x = URL_SAFE_NO_PAD.decode(public["x"].as_str().expect("x")).expect("base64");
    for secret in [set.as_bytes(), public["x"].as_str().expect("x").as_bytes(), &x] {
        let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret));
        assert!(matches!(denied(&tokens, &token.expect("a token")), Denied::Token(_)));
    }
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    for algorithm in ["none", "None", "HS256", "RS256", "ES384"] {
        let token = format!("{}.{}.", part(&json!({"typ": "JWT", "alg": algorithm})), part(&claims));
        // Ours, and refused: the next in the chain may believe everybody.
        assert!(matches!(denied(&tokens, &token), Denied::Token(_)), "{algorithm}");
    }
    let mut altered = signed(&key, "k1").into_bytes();
    let at = altered.len() - 10;
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).expect("text");
    assert_eq!(denied(&tokens, &altered), Denied::Token("its signature is wrong"));
    assert_eq!(denied(&tokens, &signed(&key, "k2")), Denied::Token("no key fits its algorithm and key id"));
    assert_eq!(denied(&tokens, &format!("eyJ{}.a.b", "a".repeat(20_000))), Denied::Token("it is too long"));
}

#[test]
fn a_token_of_an_rsa_key_is_good_for_rs256_and_for_nothing_else() {
    let ((ours, public), (theirs, _), (ec, ec_public)) = (rs256("r1"), rs256("r1"), es256("e1"));
    let set = json!({"keys": [public, ec_public]}).to_string();
    let config = Config { jwt_jwks_file: file("rsa", set.as_bytes()), ..Config::default() };
    let tokens = Tokens::read(&config).expect("keys");
    let found = check(&tokens, &signed_with(Algorithm::RS256, &ours, "r1")).expect("mine").expect("good");
    assert_eq!((found.kind, &*found.name), (Kind::Device, "d1"));
    assert!(check(&tokens, &signed(&ec, "e1")).expect("mine").is_ok(), "both kinds of keys in one set");
    let wrong = Denied::Token("its signature is wrong");
    assert_eq!(denied(&tokens, &signed_with(Algorithm::RS256, &theirs, "r1")), wrong, "the key id is no key");
    let no_key = Denied::Token("no key fits its algorithm and key id");
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        assert!(
            matches!(denied(&tokens, &signed_with(algorithm, &ours, "r1")), Denied::Token(_)),
            "{algorithm:?}"
        );
    }
    assert_eq!(denied(&tokens, &signed_with(Algorithm::RS256, &ours, "e1")), no_key, "a key of another kind");
    // The public key is no secret of an HMAC.
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().expect("n")).expect("base64");
    let header = Header { kid: Some("r1".into()), ..Header::new(Algorithm::HS256) };
    let claims = json!({"sub": "d1", "exp": now() + 60});
    for secret in [&modulus, &set.into_bytes()] {
        let token = encode(&header, &claims, &EncodingKey::from_secret(secret)).expect("a token");
        assert!(matches!(denied(&tokens, &token), Denied::Token(_)));
    }
}

#[test]
fn a_set_with_secrets_or_without_keys_is_a_mistake_and_other_keys_are_left_out() {
    let (_, public) = es256("k1");
    let read = |name: &str, set: &Value| {
        let path = file(name, set.to_string().as_bytes());
        Tokens::read(&Config { jwt_jwks_file: path, ..Config::default() })
    };
    let other = json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    assert_eq!(read("other", &json!({"keys": [public, other, {"kty": "new"}]})).expect("keys").keys.len(), 1);
    let secret = json!({"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256"});
    let problems = read("oct", &json!({"keys": [public, secret]})).expect_err("a secret");
    assert!(
        problems[0].message.contains("jwt_secret_file") && !problems[0].message.contains("c2Vj"),
        "{problems:?}"
    );
    assert!(read("none", &json!({"keys": []})).is_err() && read("array", &json!([])).is_err());
    let short = Config { jwt_secret_file: file("short", b"too short\n"), ..Config::default() };
    let problems = Tokens::read(&short).expect_err("a short secret");
    assert!(problems[0].message.contains("32") && !problems[0].message.contains("too short"), "{problems:?}");
}

#[test]
fn a_key_that_left_the_set_is_found() {
    let ((one, public_one), (_, public_two)) = (es256("k1"), es256("k2"));
    let read = |name: &str, keys: &[&Value]| {
        let path = file(name, json!({ "keys": keys }).to_string().as_bytes());
        Tokens::read(&Config { jwt_jwks_file: path, ..Config::default() }).expect("keys")
    };
    let before = read("before", &[&public_one]);
    let found = check(&before, &signed(&one, "k1")).expect("mine").expect("good");
    let CredentialId::Token(fingerprint) = found.credential else { panic!("a token") };
    assert!(read("both", &[&public_one, &public_two]).holds(&fingerprint));
    assert!(!read("after", &[&public_two]).holds(&fingerprint));
    // The same key id with another key is another key.
    let mut renamed = public_two.clone();
    renamed["kid"] = json!("k1");
    let renamed = read("renamed", &[&renamed]);
    assert!(!renamed.holds(&fingerprint));
    assert_eq!(denied(&renamed, &signed(&one, "k1")), Denied::Token("its signature is wrong"));
}
