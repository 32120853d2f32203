-- For each queue with due tasks {queue, since when}. Message: nothing.
local oldest = {}
for _, field in ipairs(redis.call('HKEYS', base .. 'counts')) do
  local queue = string.match(field, '^scheduled (.*)$')
  if queue then
    local first = redis.call('ZRANGE', base .. 'due:' .. queue, 0, 0, 'WITHSCORES')
    if first[2] and tonumber(first[2]) <= now then
      oldest[#oldest + 1] = {queue, first[2]}
    end
  end
end
return oldest
