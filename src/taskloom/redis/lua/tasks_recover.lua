-- Tasks that someone lost wait again. Message: {time, before, limit}: leases that ended by `time`,
-- and queued since `before`. Returns how many; as many as `limit`: there may be more.
local limit = message[3]
local recovered = lapse(message[1], limit)
local stale = redis.call(
  'ZRANGEBYSCORE', base .. 'moment:queued', '-inf', '(' .. string.format('%.0f', message[2]),
  'LIMIT', 0, limit - recovered
)
for _, id in ipairs(stale) do
  local row = find(id)
  change(id, row, {status = 'scheduled', updated = message[1], epoch = row.epoch + 1})
end
return recovered + #stale
