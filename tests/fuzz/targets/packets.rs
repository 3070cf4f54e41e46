//! Bytes from a broker, in both versions of MQTT, whole and in pieces.

#![no_main]

use chat21_observer::mqtt::fuzzing::decode_all;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| decode_all(data));
