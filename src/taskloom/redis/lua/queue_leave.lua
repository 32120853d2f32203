-- Forget consumers that hold nothing (with one, Redis would drop what it holds): the one that leaves,
-- and those of processes that died long ago. Message: {consumer, longest silence in milliseconds}.
local leaving, longest = message[1], message[2]
local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, group)
if consumers.err then
  return -- there is no group
end
for _, flat in ipairs(consumers) do
  local consumer = {}
  for place = 1, #flat, 2 do
    consumer[flat[place]] = flat[place + 1]
  end
  if consumer.pending == 0 and (consumer.name == leaving or consumer.idle > longest) then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer.name)
  end
end
