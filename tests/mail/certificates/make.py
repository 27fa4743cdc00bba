"""Make the certificates of the mail tests anew: needs `pip install cryptography`.

They are good for localhost only, and valid from 2020 on for a hundred years.
"""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FOLDER = Path(__file__).parent
LOCAL = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]


def certificate(common_name, key, issuer=None, issuer_key=None, names=(), is_authority=False):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    usage = dict.fromkeys(
        (
            "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
            "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    usage |= (
        {"key_cert_sign": True, "crl_sign": True} if is_authority else {"digital_signature": True}
    )
    issuer_key = issuer_key or key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if names:
        server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(server, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def write(file_name, made, key=None):
    content = made.public_bytes(serialization.Encoding.PEM)
    if key:
        content += key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    (FOLDER / file_name).write_bytes(content)


authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
authority = certificate("Ghost test authority", authority_key, is_authority=True)
write("ca.pem", authority)
write("localhost.pem", certificate("localhost", key, authority, authority_key, LOCAL), key)
other = [x509.DNSName("mail.example.org")]
write("other-name.pem", certificate("other-name", key, authority, authority_key, other), key)
write("self-signed.pem", certificate("localhost", key, names=LOCAL), key)
