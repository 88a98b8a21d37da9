"""Verifications per second of processor time by PyJWT with `cryptography`: signature, `exp`, `iss`, `aud`, with the key made once.

The packages and their versions are those of interop/python. Usage: python verify.py TOKEN_FILE SECONDS
"""
import json
import sys
import time

import jwt

with open(sys.argv[1], encoding="utf-8") as file:
    told = json.load(file)
key = jwt.PyJWK(told["jwk"]).key
options = {"require": ["exp", "iss", "aud"]}
begun, count, seconds = time.process_time(), 0, float(sys.argv[2])
while time.process_time() - begun < seconds:
    for _ in range(50):
        jwt.decode(told["token"], key, algorithms=["ES256"], issuer=told["issuer"], audience=told["audience"], options=options)
    count += 50
print(json.dumps({"per_s": count / (time.process_time() - begun)}))
