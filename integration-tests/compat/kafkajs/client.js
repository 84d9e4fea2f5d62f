// Produces, joins groups and administrates with kafkajs, JSON lines in and out.
//
//   client.js produce BOOTSTRAP TOPIC [codec=gzip] [idempotent=true]
//   client.js member BOOTSTRAP TOPIC GROUP COMMIT                  COMMIT: each, none, or a number of records
//   client.js admin BOOTSTRAP STEP ...                             STEP: name or name=argument,...
//
// The events of a member and the steps of an administrator are described in integration-tests/src/groups.rs and
// admin.rs. Without settings the client runs with its defaults.
'use strict'

const { readFileSync } = require('node:fs')
const { Kafka, Partitioners, CompressionTypes, ConfigResourceTypes, logLevel } = require('kafkajs')

const say = answer => process.stdout.write(JSON.stringify(answer) + '\n')
// Stamped in microseconds, as the other clients do, so that the events of all members can be put in order.
const event = (name, parts) => say({ event: name, at: Date.now() * 1000, ...parts })
const text = bytes => (bytes === null ? null : bytes.toString())

function connect(bootstrap) {
  // The client's own logger would print to standard output.
  const logCreator = () => entry => process.stderr.write(JSON.stringify(entry) + '\n')
  return new Kafka({ brokers: [bootstrap], logLevel: logLevel.WARN, logCreator })
}

async function produce(bootstrap, topic, settings) {
  const given = Object.fromEntries(settings.map(setting => setting.split('=')))
  const messages = readFileSync(0, 'utf8').split('\n').filter(Boolean).map(line => JSON.parse(line))
  const chosen = new Map()
  // The default partitioner, watched: the answer tells the first offset of each partition only.
  const createPartitioner = () => {
    const partitioner = Partitioners.DefaultPartitioner()
    return args => {
      const partition = partitioner(args)
      chosen.set(args.message, partition)
      return partition
    }
  }
  const producer = connect(bootstrap).producer({ createPartitioner, idempotent: given.idempotent === 'true' })
  await producer.connect()
  const compression = given.codec === 'gzip' ? CompressionTypes.GZIP : CompressionTypes.None
  const places = await producer.send({ topic, messages, compression })
  const next = new Map(places.map(place => [place.partition, Number(place.baseOffset)]))
  messages.forEach((message, line) => {
    const partition = chosen.get(message)
    say({ line, partition, offset: next.get(partition) })
    next.set(partition, next.get(partition) + 1)
  })
  await producer.disconnect()
}

async function member(bootstrap, topic, groupId, commit) {
  // Fetches return soon, because the client sends heartbeats between them.
  const consumer = connect(bootstrap).consumer({
    groupId,
    sessionTimeout: 6000,
    heartbeatInterval: 500,
    maxWaitTimeInMs: 250,
  })
  let owned = null
  const revoked = () => {
    if (owned !== null) event('revoked', { partitions: owned })
    owned = null
  }
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    revoked()
    owned = payload.memberAssignment[topic] ?? []
    event('assigned', { partitions: owned })
  })
  consumer.on(consumer.events.REBALANCING, revoked)
  consumer.on(consumer.events.CRASH, revoked)
  process.on('SIGTERM', async () => {
    event('leaving')
    await consumer.disconnect()
    revoked()
    event('left')
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  let left = { each: Infinity, none: 0 }[commit] ?? Number(commit)
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ partition, message }) => {
      const offset = Number(message.offset)
      event('record', { partition, offset, key: text(message.key), value: text(message.value) })
      if (left > 0) {
        left -= 1
        await consumer.commitOffsets([{ topic, partition, offset: String(offset + 1) }])
        event('committed', { partition, offset: offset + 1 })
      }
    },
  })
}

async function configs(admin, type, name) {
  const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type, name }] })
  const entries = resources[0].configEntries.map(entry => [entry.configName, entry.configValue])
  return { configs: Object.fromEntries(entries) }
}

const steps = {
  'create-topic': async (admin, topic, partitions) => {
    await admin.createTopics({ topics: [{ topic, numPartitions: Number(partitions) }] })
  },
  'list-topics': async admin => ({ topics: await admin.listTopics() }),
  'describe-topic': async (admin, topic) => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    return { partitions: topics[0].partitions.length }
  },
  'grow-topic': async (admin, topic, count) => {
    await admin.createPartitions({ topicPartitions: [{ topic, count: Number(count) }] })
  },
  'alter-config-whole': async (admin, topic, name, value) => {
    const resources = [{ type: ConfigResourceTypes.TOPIC, name: topic, configEntries: [{ name, value }] }]
    await admin.alterConfigs({ validateOnly: false, resources })
  },
  'describe-config': (admin, topic) => configs(admin, ConfigResourceTypes.TOPIC, topic),
  'broker-config': async admin => {
    const { controller } = await admin.describeCluster()
    return configs(admin, ConfigResourceTypes.BROKER, String(controller))
  },
  'list-groups': async admin => ({ groups: (await admin.listGroups()).groups.map(group => group.groupId) }),
  'describe-group': async (admin, id) => {
    const { groups } = await admin.describeGroups([id])
    return { state: groups[0].state, members: groups[0].members.length }
  },
  'group-offsets': async (admin, groupId) => {
    const found = await admin.fetchOffsets({ groupId })
    const flat = ({ topic, partitions }) => partitions.map(each => [topic, each.partition, Number(each.offset)])
    return { offsets: found.flatMap(flat) }
  },
  'delete-group': async (admin, id) => {
    await admin.deleteGroups([id])
  },
  'delete-topic': async (admin, topic) => {
    await admin.deleteTopics({ topics: [topic] })
  },
}

async function administrate(bootstrap, wanted) {
  const admin = connect(bootstrap).admin()
  await admin.connect()
  for (const each of wanted) {
    const [name, given] = each.split('=')
    say({ step: name, ...(await steps[name](admin, ...(given ?? '').split(','))) })
  }
  await admin.disconnect()
}

const commands = { produce, member, admin: (bootstrap, ...wanted) => administrate(bootstrap, wanted) }
const [command, bootstrap, ...rest] = process.argv.slice(2)
const run = command === 'produce' ? produce(bootstrap, rest[0], rest.slice(1)) : commands[command](bootstrap, ...rest)
run.catch(error => {
  console.error(error)
  process.exit(1)
})
