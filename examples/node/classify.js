// Classify image files with a convserve server. Copy what you need.
//
//   npm install
//   node classify.js --model mnist --target 127.0.0.1:8001 digit.png other.jpg
//
// Prints one JSON object per file. A file that cannot be classified is reported on stderr, and the exit status is 1.
import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const { values: options, positionals: files } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: 'string', default: 'mnist' },
    target: { type: 'string', default: '127.0.0.1:8001' },
    version: { type: 'string' }, // a number, or an alias such as "stable"; without it the server chooses
    'top-k': { type: 'string', default: '3' },
    'timeout-ms': { type: 'string', default: '10000' },
    protos: { type: 'string', default: fileURLToPath(new URL('../../protos', import.meta.url)) },
  },
});

// The package is built from the .proto files when the program starts: nothing is generated.
const definition = protoLoader.loadSync('convserve/v1/classification.proto', {
  includeDirs: [options.protos],
  keepCase: true, // field names as in the .proto files
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { ClassificationService } = grpc.loadPackageDefinition(definition).convserve.v1;

const MAX_MESSAGE_BYTES = 64 * 2 ** 20; // the server's default; gRPC's own is 4 MiB
const client = new ClassificationService(options.target, grpc.credentials.createInsecure(), {
  'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
  'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
  'grpc.service_config': JSON.stringify({
    loadBalancingConfig: [{ round_robin: {} }], // all addresses of a dns:/// name
    methodConfig: [
      {
        name: [{ service: 'convserve.v1.ClassificationService' }],
        // Classifying has no side effects, so a call whose server went away may be repeated.
        retryPolicy: {
          maxAttempts: 4,
          initialBackoff: '0.05s',
          maxBackoff: '1s',
          backoffMultiplier: 2,
          retryableStatusCodes: ['UNAVAILABLE'],
        },
      },
    ],
  }),
});

function classify(image) {
  const request = {
    model: options.model,
    encoded: { images: [image] }, // PNG, JPEG, BMP or WebP of any size; the server decodes and resizes
    top_k: Number(options['top-k']),
  };
  if (options.version !== undefined) {
    if (/^\d+$/.test(options.version)) request.version = Number(options.version);
    else request.alias = options.version;
  }
  const metadata = new grpc.Metadata();
  metadata.set('x-request-id', randomUUID()); // finds the call in the server's log
  const deadline = Date.now() + Number(options['timeout-ms']);
  return new Promise((resolve, reject) => {
    client.Classify(request, metadata, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply)));
  });
}

for (const file of files) {
  try {
    const reply = await classify(await readFile(file));
    const { predictions, decoding } = reply.results[0];
    console.log(JSON.stringify({ file, predictions, model_version: reply.model_version, decoding }));
  } catch (error) {
    // gRPC errors have a code; `details` is the server's sentence and names the field that is wrong.
    const reason = error.code in grpc.status ? `${grpc.status[error.code]}: ${error.details}` : error.message;
    console.error(`${file}: ${reason}`);
    process.exitCode = 1;
  }
}
client.close();
