//! Tokens of strangers, and keys as operators write them: nobody gets in with what no key has
//! signed. The token is the first line, the key the rest; most have the usual key.

#![no_main]

use chat21_observer::auth::secret::Secret;
use chat21_observer::auth::verify::{Lifetime, Verifier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (token, key) = text.split_once('\n').unwrap_or((text, ""));
    let given = Verifier::parse(&Secret::new(key.to_owned()), Lifetime::Any);
    if let Ok(verifier) = given {
        // With a key of their own they may.
        let _ = verifier.verify(token);
    }
    let secret = Secret::new("a secret that nobody guesses, of 32 bytes".to_owned());
    let verifier = Verifier::parse(&secret, Lifetime::Any).expect("a key");
    assert!(verifier.verify(token).is_err(), "nobody has signed that");
});
